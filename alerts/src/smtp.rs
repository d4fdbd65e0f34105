//! The way of an e-mail to its server: one message, one connection. `lettre` speaks; what is refused, and to whom that matters, is
//! decided here.
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use driftline_schemas::config::{EmailSettings, SmtpTls};
use lettre::Address;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Of a reply that refuses, so much is shown.
const SHOWN_MAX: usize = 200;
/// A connection that takes longer is none.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// What is handed over.
pub(crate) struct Letter<'a> {
    pub(crate) from: Address,
    pub(crate) to: Vec<Address>,
    pub(crate) body: &'a str,
    /// User and password.
    pub(crate) credentials: Option<(&'a str, &'a str)>,
}

/// Hands a letter over.
///
/// # Returns
/// Why recipients were refused for good; the others have it.
///
/// # Errors
/// Why nobody has it.
pub(crate) async fn deliver(
    host: &str,
    addresses: &[SocketAddr],
    email: &EmailSettings,
    letter: Letter<'_>,
) -> Result<Vec<String>, String> {
    // The name of this machine tells a server nothing that it could check.
    let hello = ClientId::Ipv4(Ipv4Addr::LOCALHOST);
    let tls = match email.tls {
        SmtpTls::None => None,
        SmtpTls::Implicit | SmtpTls::Starttls => Some(trust(host, email)?),
    };
    let at_once = tls.clone().filter(|_| email.tls == SmtpTls::Implicit);
    let mut session = AsyncSmtpConnection::connect_tokio1(addresses, Some(CONNECT_MAX), &hello, at_once, None)
        .await
        .map_err(|error| format!("{host}: {}", shown(&error)))?;
    if let Some(tls) = tls.filter(|_| email.tls == SmtpTls::Starttls) {
        if !session.can_starttls() {
            return Err(format!("{host} does not offer STARTTLS, and nothing goes there in the clear"));
        }
        session.starttls(tls, &hello).await.map_err(|error| format!("STARTTLS with {host}: {}", shown(&error)))?;
    }
    if let Some((user, password)) = letter.credentials {
        let credentials = Credentials::new(user.to_owned(), password.to_owned());
        let known = session.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await;
        known.map_err(|error| format!("{host} does not know us: {}", shown(&error)))?;
    }
    let refused = |what: &str, error: Error| format!("{host} refuses {what}: {}", shown(&error));
    session.command(Mail::new(Some(letter.from), Vec::new())).await.map_err(|error| refused("the sender", error))?;
    let (recipients, mut left_out) = (letter.to.len(), Vec::new());
    for to in letter.to {
        match session.command(Rcpt::new(to.clone(), Vec::new())).await {
            Ok(_) => {}
            // For good: the others need not wait for it.
            Err(error) if error.is_permanent() => left_out.push(refused(to.as_ref(), error)),
            // For now: nobody gets it yet, or the others would get it again.
            Err(error) => return Err(refused(to.as_ref(), error)),
        }
    }
    if left_out.len() == recipients {
        return Err(left_out.join("; "));
    }
    session.command(Data).await.map_err(|error| refused("to be told", error))?;
    session.message(letter.body.as_bytes()).await.map_err(|error| refused("the message", error))?;
    // It is theirs now, whatever becomes of the connection.
    session.abort().await;
    Ok(left_out)
}

/// The certificates that a server's is held against: the system's, and those of a file.
fn trust(host: &str, email: &EmailSettings) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(host.trim_start_matches('[').trim_end_matches(']').to_owned());
    if let Some(file) = &email.ca_certificate_file {
        let unreadable = |error: &dyn std::fmt::Display| format!("read {file}: {error}");
        for found in CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))? {
            let found = found.map_err(|error| unreadable(&error))?;
            let certificate = Certificate::from_der(found.to_vec()).map_err(|error| unreadable(&error))?;
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(|error| format!("TLS with {host}: {}", shown(&error)))
}

/// An error in a line, with its causes.
fn shown(error: &Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    // Each error's text may end with that of its cause.
    let mut text = String::new();
    for cause in causes.map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    /// Talks to a server that gives one answer after the other, and returns what it heard.
    async fn talk(
        answers: &[&str],
        to: &[&str],
        secret: Option<(&str, &str)>,
    ) -> (Result<Vec<String>, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let answers: Vec<String> = answers.iter().map(ToString::to_string).collect();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            let mut stream = BufReader::new(stream);
            let (mut heard, mut is_message) = (String::new(), false);
            for answer in answers {
                stream.get_mut().write_all(answer.as_bytes()).await.expect("it listens");
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).await.expect("text") == 0 {
                        return heard;
                    }
                    heard.push_str(&line);
                    // A message has many lines, and one answer.
                    is_message |= answer.starts_with("354");
                    if !is_message || line == ".\r\n" {
                        is_message = false;
                        break;
                    }
                }
            }
            drop(stream.read_to_string(&mut heard).await);
            heard
        });
        let email = EmailSettings {
            from: "a@x.org".into(),
            to: Vec::new(),
            username: None,
            tls: SmtpTls::None,
            ca_certificate_file: None,
        };
        let letter = Letter {
            from: "a@x.org".parse().expect("an address"),
            to: to.iter().map(|to| to.parse().expect("an address")).collect(),
            body: "Subject: s\r\n\r\n.hidden\r\n",
            credentials: secret,
        };
        let result = deliver("mail.example.org", &[address], &email, letter).await;
        (result, server.await.expect("it ends"))
    }

    const HI: &str = "220 hi\r\n";
    const ME: &str = "250-me\r\n250-AUTH LOGIN PLAIN\r\n250 8BITMIME\r\n";

    #[tokio::test]
    async fn a_letter_is_handed_over_word_by_word() {
        let answers = [HI, ME, "235 ok\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 queued\r\n", "221 bye\r\n"];
        let (result, heard) = talk(&answers, &["b@y.org"], Some(("me", "secret"))).await;
        assert_eq!(result, Ok(vec![]));
        let words = "EHLO [127.0.0.1]\r\nAUTH PLAIN AG1lAHNlY3JldA==\r\nMAIL FROM:<a@x.org>\r\nRCPT TO:<b@y.org>\r\nDATA\r\n\
                     Subject: s\r\n\r\n..hidden\r\n\r\n.\r\nQUIT\r\n";
        assert_eq!(heard, words);
    }

    #[tokio::test]
    async fn one_who_is_refused_for_good_is_left_out_and_one_refused_for_now_holds_all_back() {
        let ok = "250 ok\r\n";
        let both = ["b@y.org", "c@y.org"];
        let answers = [HI, ME, ok, "550 who?\r\n", ok, "354 go\r\n", "250 queued\r\n", "221 bye\r\n"];
        let left_out = talk(&answers, &both, None).await.0.expect("one has it");
        assert!(
            matches!(left_out.as_slice(), [one] if one.contains("refuses b@y.org") && one.contains("who?")),
            "{left_out:?}"
        );
        let (result, heard) = talk(&[HI, ME, ok, ok, "451 later\r\n"], &both, None).await;
        assert!(result.is_err_and(|why| why.contains("refuses c@y.org") && why.contains("later")));
        assert!(!heard.contains("DATA"), "{heard}");
        assert!(talk(&[HI, ME, ok, "550 who?\r\n"], &["b@y.org"], None).await.0.is_err(), "nobody is left");
    }

    #[tokio::test]
    async fn what_a_server_refuses_is_said_without_the_password() {
        for (answers, why) in [
            (vec!["554 go away\r\n"], "go away"),
            (vec!["hello\r\n"], "mail.example.org: "),
            (vec![HI, ME, "535 no\r\n"], "does not know us: "),
            (vec![HI, "250 me\r\n"], "does not know us: "),
            (vec![HI, ME, "235 ok\r\n", "552 too big\r\n"], "too big"),
        ] {
            let error = talk(&answers, &["b@y.org"], Some(("me", "hunter2"))).await.0.expect_err(why);
            assert!(error.contains(why) && !error.contains("hunter2") && !error.contains("aHVudGVyMg"), "{error}");
        }
    }
}
