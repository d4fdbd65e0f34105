//! E-mail: a message of text and HTML, each copy of which is the same to the byte.
use std::time::{Duration, SystemTime};

use driftline_schemas::clock::{Micros, time_of};
use driftline_schemas::config::{EmailSettings, Severity, Sink, SmtpTls};
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment as File, Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message as Mail};

use crate::message::{Message, cut};
use crate::send::{Outcome, again, is_loopback, resolve};
use crate::smtp::{self, Letter};

/// A server that takes longer has not taken it.
const TIMEOUT: Duration = Duration::from_secs(120);

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
    // What cannot be composed is empty, and `send` says why: the configuration's check has looked at the addresses.
    let body = sink.email.as_ref().and_then(|email| compose(email, id, at, draft).ok()).unwrap_or_default();
    Message { url: sink.url.clone(), id: id.to_owned(), content_type: "message/rfc822", body, is_signed: false }
}

/// Alerts in words. `worst`: of what holds of them.
pub(crate) fn alert(worst: Option<Severity>, heading: &str, lines: &[String], external_url: Option<&str>) -> Draft {
    let more = external_url.map_or_else(String::new, |url| format!("\n{url}\n"));
    let text = format!("{}\n{more}", bullets(lines));
    let color = if worst.is_some_and(|severity| severity >= Severity::Error) { "#b3261e" } else { "#57606a" };
    let items = items(lines);
    let more = external_url.map_or_else(String::new, |url| format!("<p><a href=\"{0}\">{0}</a></p>", escape(url)));
    let title = format!("<h1 style=\"font-size:1.2em;color:{color}\">{}</h1>", escape(heading));
    let html = page(&format!("{title}<ul style=\"padding-left:1.2em\">{items}</ul>{more}"));
    Draft { subject: heading.to_owned(), text, html, attachments: Vec::new() }
}

/// Lines as a list of plain text.
pub(crate) fn bullets(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |text, line| text + "* " + line + "\n")
}

/// Lines as the items of a list of HTML.
pub(crate) fn items(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |html, line| html + "<li style=\"margin:.4em 0\">" + &escape(line) + "</li>")
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

/// Who is written to, or writes: an address, or a name and an address.
///
/// # Errors
/// Why it is nobody that mail can be sent to. A list is none: its first would be taken for all.
pub(crate) fn mailbox(text: &str) -> Result<Mailbox, String> {
    let (name, address) = match text.trim().strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((name, address)) => (Some(name.trim().trim_matches('"').to_owned()), address),
        None => (None, text.trim()),
    };
    // Beyond ASCII a server must say that it takes it, and few do.
    let address: Option<Address> = address.parse().ok().filter(|_| address.is_ascii());
    let address = address
        .ok_or_else(|| format!("{text:?} is no address like \"ops@example.org\" or \"Name <ops@example.org>\""))?;
    Ok(Mailbox::new(name.filter(|name| !name.is_empty()), address))
}

/// The message as it goes over the wire.
fn compose(email: &EmailSettings, id: &str, at: Micros, draft: &Draft) -> Result<String, String> {
    let from = mailbox(&email.from)?;
    let id_of_message = format!("<{id}@{}>", from.email.domain());
    let mut builder = Mail::builder().from(from);
    for to in &email.to {
        builder = builder.to(mailbox(to)?);
    }
    let builder =
        builder.subject(cut(&draft.subject, 200)).date(SystemTime::from(time_of(at))).message_id(Some(id_of_message));
    let alternative = MultiPart::alternative()
        .boundary(format!("alternative-{id}"))
        .singlepart(SinglePart::plain(draft.text.clone()))
        .singlepart(SinglePart::html(draft.html.clone()));
    let body = if draft.attachments.is_empty() {
        alternative
    } else {
        let mut mixed = MultiPart::mixed().boundary(format!("mixed-{id}")).multipart(alternative);
        for attachment in &draft.attachments {
            let media_type = ContentType::parse(attachment.media_type).map_err(|error| error.to_string())?;
            mixed = mixed.singlepart(File::new(attachment.name.clone()).body(attachment.bytes.clone(), media_type));
        }
        mixed
    };
    let mut mail = builder.multipart(body).map_err(|error| error.to_string())?;
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    mail.headers_mut().insert_raw(HeaderValue::new(automatic, "auto-generated".to_owned()));
    String::from_utf8(mail.formatted()).map_err(|error| error.to_string())
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
    let address = |text: &String| mailbox(text).map(|mailbox| mailbox.email);
    let (from, to) = match (address(&email.from), email.to.iter().map(address).collect::<Result<Vec<_>, _>>()) {
        (Ok(from), Ok(to)) => (from, to),
        (Err(why), _) | (_, Err(why)) => return again(why),
    };
    let letter =
        Letter { from, to, body: &message.body, credentials: email.username.as_deref().zip(sink.secret.as_deref()) };
    match tokio::time::timeout(TIMEOUT, smtp::deliver(&host, &addresses, email, letter)).await {
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
        let mail = compose(&settings(), "msg_1", 0, &draft()).expect("good addresses");
        assert!(mail.is_ascii());
        assert!(mail.split("\r\n").all(|line| line.len() <= 78 && !line.contains('\n')), "{mail}");
        assert!(!mail.contains("\r\nBcc:"), "{mail}");
        for line in [
            "From: Driftline <driftline@example.org>\r\n",
            "To: =?utf-8?b?Wm/Dqw==?= <zoe@example.org>, ops@example.org\r\n",
            "Message-ID: <msg_1@example.org>\r\n",
            "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n",
            "Auto-Submitted: auto-generated\r\n",
        ] {
            assert!(mail.contains(line), "{line} is not in\n{mail}");
        }
        assert_eq!(mail, compose(&settings(), "msg_1", 0, &draft()).expect("the same"), "every copy is the same");
    }

    fn sink(url: &str, tls: &str) -> Sink {
        let text = format!(
            "[[alerts.sinks]]\nname = \"mail\"\ntype = \"email\"\nurl = \"{url}\"\ntls = \"{tls}\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]"
        );
        let config = driftline_schemas::config::Config::from_table(text.parse().expect("TOML"));
        config.expect("a good file").alerts.sinks.remove(0)
    }

    #[test]
    fn an_alert_has_its_heading_its_lines_and_the_way_to_more() {
        let lines = ["<one>".to_owned(), "two".to_owned()];
        let of = |worst| alert(worst, "critical: m & n", &lines, Some("https://x/?a=1&b=\"2\""));
        let mail = of(Some(Severity::Critical));
        assert_eq!(mail.subject, "critical: m & n");
        assert!(
            mail.html.contains("critical: m &amp; n</h1>") && mail.html.contains("&lt;one&gt;</li>"),
            "{}",
            mail.html
        );
        assert!(mail.text.starts_with("* <one>\n* two\n") && mail.text.contains("\nhttps://x/?a=1&b=\"2\"\n"));
        assert!(mail.html.contains("href=\"https://x/?a=1&amp;b=&quot;2&quot;\""), "{}", mail.html);
        let is_red = |worst| of(worst).html.contains("#b3261e");
        assert!(is_red(Some(Severity::Error)) && !is_red(Some(Severity::Warning)) && !is_red(None));
    }

    #[test]
    fn b1_a_subject_is_short_whatever_it_names() {
        let long = Draft { subject: "word ".repeat(1_000), ..draft() };
        let mail = compose(&settings(), "msg_1", 0, &long).expect("good addresses");
        assert_eq!(mail.matches("word").count(), 40, "of 200 characters");
    }

    #[tokio::test]
    async fn nothing_goes_to_another_machine_in_the_clear() {
        let sink = sink("smtp://192.0.2.1:25", "none");
        let letter = message(&sink, "msg_1", 0, &draft());
        let Outcome::Again { why, .. } = send(&sink, &letter, true).await else { panic!("it is sent") };
        assert!(why.contains("nothing goes there in the clear"), "{why}");
    }

    #[test]
    fn addresses_that_would_say_more_to_a_server_are_none() {
        let read = |text: &str| mailbox(text).map(|mailbox| (mailbox.name.clone(), mailbox.email.to_string()));
        assert_eq!(read("a@b.c"), Ok((None, "a@b.c".into())));
        assert_eq!(read("\"A, B\" <a@b.c>"), Ok((Some("A, B".into()), "a@b.c".into())));
        for text in ["", "a", "@b", "a@", "a b@c", "a@b>\r\nRCPT TO:<x@y", "<a@b", "é@b.c", "a@b, c@d"] {
            assert!(mailbox(text).is_err(), "{text}");
        }
    }
}
