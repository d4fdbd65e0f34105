//! E-mail: a message of text and HTML (RFC 5322, MIME), and its way to a server (RFC 5321, with STARTTLS and AUTH).
//!
//! Every part is base64 and every header ASCII, so a message passes any server, and each copy of it is the same to the byte.
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use driftline_schemas::clock::{Micros, time_of};
use driftline_schemas::config::{EmailSettings, Severity, Sink, SmtpTls};

use crate::life::{Kind, Transition};
use crate::message::{Message, cut, lines, title};
use crate::send::{Outcome, again, is_loopback, resolve};
use crate::smtp::{self, Letter};

/// A server that takes longer has not taken it.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Octets of an encoded word of a header before base64: it may be 75 characters long.
const WORD_MAX: usize = 42;

/// A file that goes with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) name: String,
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// What is written, before it is encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) html: String,
    pub(crate) attachments: Vec<Attachment>,
}

/// A message by e-mail; its `Message-ID` is made of `id`.
pub(crate) fn message(sink: &Sink, id: &str, at: Micros, draft: &Draft) -> Message {
    let body = sink.email.as_ref().map(|email| compose(email, id, at, draft)).unwrap_or_default();
    Message { url: sink.url.clone(), id: id.to_owned(), content_type: "message/rfc822", body, is_signed: false }
}

/// Transitions of one model in words.
pub(crate) fn alert(sink: &Sink, model: &str, told: &[&Transition], external_url: Option<&str>) -> Draft {
    let is_open = |transition: &&&Transition| !matches!(transition.kind, Kind::Resolved | Kind::Withdrawn);
    let worst = told.iter().filter(is_open).map(|transition| transition.severity).max();
    let state = match worst {
        Some(severity) => format!("{}: ", severity.as_str()),
        None => "over: ".to_owned(),
    };
    let lines = lines(sink, told);
    let more = external_url.map_or_else(String::new, |url| format!("\n{url}\n"));
    let text = format!("{}\n{more}", lines.iter().map(|line| format!("* {line}\n")).collect::<String>());
    let color = if worst.is_some_and(|severity| severity >= Severity::Error) { "#b3261e" } else { "#57606a" };
    let items: String = lines.iter().map(|line| format!("<li style=\"margin:.4em 0\">{}</li>", escape(line))).collect();
    let more = external_url.map_or_else(String::new, |url| format!("<p><a href=\"{0}\">{0}</a></p>", escape(url)));
    let heading = format!("<h1 style=\"font-size:1.2em;color:{color}\">{}</h1>", escape(&title(model, told)));
    let html = page(&format!("{heading}<ul style=\"padding-left:1.2em\">{items}</ul>{more}"));
    Draft { subject: format!("{state}{}", title(model, told)), text, html, attachments: Vec::new() }
}

/// A body as a whole document of HTML.
pub(crate) fn page(body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"></head>\
         <body style=\"font-family:sans-serif;line-height:1.5\">{body}</body></html>"
    )
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A name, if there is one, and an address.
///
/// # Errors
/// Why it is no address that mail can be sent to.
pub(crate) fn mailbox(text: &str) -> Result<(Option<String>, String), String> {
    let (name, address) = match text.trim().strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((name, address)) => (Some(name.trim().trim_matches('"').to_owned()), address),
        None => (None, text.trim()),
    };
    let is_plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>()[],;:\\\"@ ".contains(&byte))
    };
    match address.rsplit_once('@') {
        Some((local, domain)) if is_plain(local) && is_plain(domain) => {
            Ok((name.filter(|name| !name.is_empty()), address.to_owned()))
        }
        _ => Err(format!("{text:?} is no address like \"ops@example.org\" or \"Name <ops@example.org>\"")),
    }
}

/// The message as it goes over the wire, lines ended by CRLF.
fn compose(email: &EmailSettings, id: &str, at: Micros, draft: &Draft) -> String {
    let from = mailbox(&email.from).map(|(_, address)| address).unwrap_or_default();
    let domain = from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    let to: Vec<String> = email.to.iter().map(|text| shown(text)).collect();
    let mut mail = String::new();
    for (name, value) in [
        ("From", shown(&email.from)),
        ("To", to.join(",\r\n ")),
        ("Subject", words(&cut(&draft.subject, 200))),
        ("Date", time_of(at).to_rfc2822()),
        ("Message-ID", format!("<{id}@{domain}>")),
        ("Auto-Submitted", "auto-generated".to_owned()),
        ("MIME-Version", "1.0".to_owned()),
    ] {
        mail.push_str(&format!("{name}: {value}\r\n"));
    }
    let (outer, inner) = (format!("mixed-{id}"), format!("alternative-{id}"));
    let alternative = format!(
        "Content-Type: multipart/alternative; boundary=\"{inner}\"\r\n\r\n{}{}--{inner}--\r\n",
        part(&inner, "text/plain; charset=utf-8", "", draft.text.as_bytes()),
        part(&inner, "text/html; charset=utf-8", "", draft.html.as_bytes()),
    );
    if draft.attachments.is_empty() {
        return mail + &alternative;
    }
    mail.push_str(&format!("Content-Type: multipart/mixed; boundary=\"{outer}\"\r\n\r\n--{outer}\r\n{alternative}"));
    for attachment in &draft.attachments {
        let name: String = attachment
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._-%".contains(c) { c } else { '_' })
            .collect();
        let disposition = format!("Content-Disposition: attachment; filename=\"{name}\"\r\n");
        mail.push_str(&part(&outer, attachment.media_type, &disposition, &attachment.bytes));
    }
    mail + &format!("--{outer}--\r\n")
}

fn part(boundary: &str, media_type: &str, further: &str, bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    let mut body = String::with_capacity(encoded.len() + encoded.len() / 38);
    for line in encoded.as_bytes().chunks(76) {
        body.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        body.push_str("\r\n");
    }
    format!("--{boundary}\r\nContent-Type: {media_type}\r\nContent-Transfer-Encoding: base64\r\n{further}\r\n{body}")
}

/// A mailbox as a header has it.
fn shown(text: &str) -> String {
    match mailbox(text) {
        Ok((Some(name), address)) => {
            let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b' ' || byte == b'-');
            if is_plain { format!("{name} <{address}>") } else { format!("{} <{address}>", encoded_words(&name)) }
        }
        Ok((None, address)) => address,
        Err(_) => String::new(),
    }
}

/// Text of a header: as it is, if it is short and ASCII, else as encoded words (RFC 2047), which no name can break out of.
fn words(text: &str) -> String {
    let is_plain = text.len() <= 60 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && !text.contains("=?");
    if is_plain { text.to_owned() } else { encoded_words(text) }
}

fn encoded_words(text: &str) -> String {
    let mut words: Vec<String> = vec![String::new()];
    for c in text.chars() {
        let is_full = words.last().is_some_and(|word| word.len() + c.len_utf8() > WORD_MAX);
        if is_full {
            words.push(String::new());
        }
        words.last_mut().expect("there is always one").push(c);
    }
    let words: Vec<String> = words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word))).collect();
    words.join("\r\n ")
}

/// Gives a message to its server. What it says of failures never holds the password.
pub(crate) async fn send(sink: &Sink, message: &Message, allow_local: bool) -> Outcome {
    let Some(email) = &sink.email else { return again("no settings of e-mail") };
    let (host, addresses) = match resolve(&message.url, allow_local).await {
        Ok(resolved) => resolved,
        Err(why) => return again(why),
    };
    if email.tls == SmtpTls::None && !addresses.iter().all(|address| is_loopback(address.ip())) {
        return again(format!("{host} is another machine, and `tls` is \"none\": nothing goes there in the clear"));
    }
    let address = |text: &String| mailbox(text).map(|(_, address)| address);
    let (from, to) = match (address(&email.from), email.to.iter().map(address).collect::<Result<Vec<_>, _>>()) {
        (Ok(from), Ok(to)) => (from, to),
        (Err(why), _) | (_, Err(why)) => return again(why),
    };
    let letter =
        Letter { from, to, body: &message.body, credentials: email.username.as_deref().zip(sink.secret.as_deref()) };
    match tokio::time::timeout(TIMEOUT, smtp::deliver(&host, &addresses, email, &letter)).await {
        Ok(Ok(refused)) => {
            for why in refused {
                tracing::warn!(sink = sink.name, why, "a recipient is refused; the others have the message");
            }
            Outcome::Done
        }
        Ok(Err(why)) => again(why),
        Err(_) => again(format!("{host} took more than {} s", TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> EmailSettings {
        EmailSettings {
            from: "Driftline <driftline@example.org>".into(),
            to: vec!["Zoë <zoe@example.org>".into(), "ops@example.org".into()],
            username: None,
            tls: SmtpTls::Starttls,
            ca_certificate_file: None,
        }
    }

    fn draft() -> Draft {
        Draft {
            subject: "critical: fraud – f1 is low\r\nBcc: everyone@example.org".into(),
            text: "Größe\n".into(),
            html: "<p>Größe</p>".into(),
            attachments: vec![Attachment {
                name: "a/b\".html".into(),
                media_type: "text/html",
                bytes: vec![b'x'; 200],
            }],
        }
    }

    #[test]
    fn a_message_is_ascii_in_short_lines_and_no_name_breaks_out_of_its_header() {
        let mail = compose(&settings(), "msg_1", 0, &draft());
        assert!(mail.is_ascii());
        assert!(mail.split("\r\n").all(|line| line.len() <= 78 && !line.contains('\n')), "{mail}");
        assert!(!mail.contains("\r\nBcc:"), "{mail}");
        for line in [
            "From: Driftline <driftline@example.org>\r\n",
            "To: =?utf-8?B?Wm/Dqw==?= <zoe@example.org>,\r\n ops@example.org\r\n",
            "Message-ID: <msg_1@example.org>\r\n",
            "Date: Thu, 1 Jan 1970 00:00:00 +0000\r\n",
            "filename=\"a_b_.html\"",
        ] {
            assert!(mail.contains(line), "{line} is not in\n{mail}");
        }
        assert_eq!(mail, compose(&settings(), "msg_1", 0, &draft()), "every copy is the same");
    }

    #[test]
    fn addresses_that_would_say_more_to_a_server_are_none() {
        assert_eq!(mailbox("a@b.c"), Ok((None, "a@b.c".into())));
        assert_eq!(mailbox("\"A, B\" <a@b.c>"), Ok((Some("A, B".into()), "a@b.c".into())));
        for text in ["", "a", "@b", "a@", "a b@c", "a@b>\r\nRCPT TO:<x@y", "<a@b", "é@b.c", "a@b, c@d"] {
            assert!(mailbox(text).is_err(), "{text}");
        }
    }
}
