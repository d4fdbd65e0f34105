//! The words of SMTP: one message, one connection.
//!
//! ```text
//! 220 ─► EHLO ─► STARTTLS ─► EHLO ─► AUTH ─► MAIL ─► RCPT … ─► DATA ─► QUIT
//! ```
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use driftline_schemas::config::{EmailSettings, SmtpTls};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Octets of one reply, all its lines together.
const REPLY_MAX: usize = 16 * 1024;
/// Of a reply that refuses, so much is shown.
const SHOWN_MAX: usize = 200;

/// What is handed over.
pub(crate) struct Letter<'a> {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
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
    letter: &Letter<'_>,
) -> Result<Vec<String>, String> {
    let stream = TcpStream::connect(addresses).await.map_err(|error| format!("{host}: {error}"))?;
    match email.tls {
        SmtpTls::None => {
            let mut session = Session::begin(stream).await?;
            session.hello().await?;
            session.hand_over(letter).await
        }
        SmtpTls::Implicit => {
            let mut session = Session::begin(encrypt(stream, host, email).await?).await?;
            session.hello().await?;
            session.hand_over(letter).await
        }
        SmtpTls::Starttls => {
            let mut session = Session::begin(stream).await?;
            session.hello().await?;
            if !session.offers("STARTTLS") {
                return Err(format!("{host} does not offer STARTTLS, and nothing goes there in the clear"));
            }
            session.say("STARTTLS", &[220]).await?;
            if !session.ahead.is_empty() {
                return Err(format!("{host} says more before TLS than it was asked"));
            }
            let mut session = Session::over(encrypt(session.stream, host, email).await?);
            session.hello().await?;
            session.hand_over(letter).await
        }
    }
}

async fn encrypt(
    stream: TcpStream,
    host: &str,
    email: &EmailSettings,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut trusted: Vec<CertificateDer<'static>> = Vec::new();
    if let Some(file) = &email.ca_certificate_file {
        let found = CertificateDer::pem_file_iter(file).map_err(|error| format!("read {file}: {error}"))?;
        trusted = found.collect::<Result<_, _>>().map_err(|error| format!("read {file}: {error}"))?;
    }
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(trusted, provider.clone())
        .map_err(|error| format!("certificates: {error}"))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare).map_err(|error| format!("{host}: {error}"))?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS with {host}: {error}"))
}

/// A conversation.
struct Session<S> {
    stream: S,
    /// What has come and has not been read yet.
    ahead: Vec<u8>,
    /// What the server offers, of its answer to EHLO.
    offers: Vec<String>,
}

/// A code and its text.
struct Reply {
    code: u16,
    lines: Vec<String>,
}

impl Reply {
    fn shown(&self) -> String {
        let text: String = self.lines.join(" ").chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect();
        format!("{} {text}", self.code)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    fn over(stream: S) -> Self {
        Self { stream, ahead: Vec::new(), offers: Vec::new() }
    }

    async fn begin(stream: S) -> Result<Self, String> {
        let mut session = Self::over(stream);
        let reply = session.reply().await?;
        if reply.code == 220 { Ok(session) } else { Err(format!("the server greets with {}", reply.shown())) }
    }

    async fn hello(&mut self) -> Result<(), String> {
        // The name of this machine tells a server nothing that it could check.
        let reply = self.say("EHLO [127.0.0.1]", &[250]).await?;
        self.offers = reply.lines.iter().skip(1).map(|line| line.to_ascii_uppercase()).collect();
        Ok(())
    }

    fn offers(&self, word: &str) -> bool {
        self.offers.iter().any(|line| line.split(' ').next() == Some(word))
    }

    async fn hand_over(&mut self, letter: &Letter<'_>) -> Result<Vec<String>, String> {
        if let Some((user, password)) = letter.credentials {
            self.authenticate(user, password).await?;
        }
        self.say(&format!("MAIL FROM:<{}>", letter.from), &[250]).await?;
        let mut refused = Vec::new();
        for to in &letter.to {
            let reply = self.ask(&format!("RCPT TO:<{to}>")).await?;
            match reply.code {
                250..=252 => {}
                // For good: the others need not wait for it.
                500..=599 => refused.push(format!("{to}: {}", reply.shown())),
                // For now: nobody gets it yet, or the others would get it again.
                _ => return Err(format!("{to}: {}", reply.shown())),
            }
        }
        if refused.len() == letter.to.len() {
            return Err(refused.join("; "));
        }
        self.say("DATA", &[354]).await?;
        self.write(stuffed(letter.body).as_bytes()).await?;
        let reply = self.reply().await?;
        if reply.code != 250 {
            return Err(format!("the message is refused: {}", reply.shown()));
        }
        // It is theirs now, whatever becomes of the connection.
        let _ = self.ask("QUIT").await;
        Ok(refused)
    }

    async fn authenticate(&mut self, user: &str, password: &str) -> Result<(), String> {
        let line = self.offers.iter().find(|line| line.split(' ').next() == Some("AUTH")).cloned().unwrap_or_default();
        let knows = |mechanism: &str| line.split(' ').skip(1).any(|word| word == mechanism);
        let refused = |reply: &Reply| format!("the server does not know us: {}", reply.shown());
        let reply = if knows("PLAIN") {
            self.ask(&format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}")))).await?
        } else if knows("LOGIN") {
            for (line, wanted) in [("AUTH LOGIN".to_owned(), 334), (STANDARD.encode(user), 334)] {
                let reply = self.ask(&line).await?;
                if reply.code != wanted {
                    return Err(refused(&reply));
                }
            }
            self.ask(&STANDARD.encode(password)).await?
        } else {
            return Err("the server offers neither AUTH PLAIN nor LOGIN".into());
        };
        if reply.code == 235 { Ok(()) } else { Err(refused(&reply)) }
    }

    /// Says a line, and wants one of these codes.
    async fn say(&mut self, line: &str, wanted: &[u16]) -> Result<Reply, String> {
        let reply = self.ask(line).await?;
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        if wanted.contains(&reply.code) { Ok(reply) } else { Err(format!("{verb} is answered {}", reply.shown())) }
    }

    async fn ask(&mut self, line: &str) -> Result<Reply, String> {
        self.write(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|error| format!("the connection broke: {error}"))
    }

    async fn reply(&mut self) -> Result<Reply, String> {
        let mut lines = Vec::new();
        let mut read = 0;
        loop {
            let line = self.line().await?;
            read += line.len();
            if read > REPLY_MAX {
                return Err("a reply without an end".into());
            }
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
            let code =
                code.ok_or_else(|| format!("no reply of SMTP: {}", line.chars().take(80).collect::<String>()))?;
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    async fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let rest = self.ahead.split_off(end + 1);
                let line = std::mem::replace(&mut self.ahead, rest);
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.ahead.len() > REPLY_MAX {
                return Err("a line without an end".into());
            }
            let mut some = [0_u8; 2048];
            match self.stream.read(&mut some).await {
                Ok(0) => return Err("the server has hung up".into()),
                Ok(n) => self.ahead.extend_from_slice(&some[..n]),
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
    }
}

/// A body with its dots doubled at the beginning of lines, and its end.
fn stuffed(body: &str) -> String {
    let mut stuffed = String::with_capacity(body.len() + 8);
    for line in body.trim_end_matches("\r\n").split("\r\n") {
        if line.starts_with('.') {
            stuffed.push('.');
        }
        stuffed.push_str(line);
        stuffed.push_str("\r\n");
    }
    stuffed + ".\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter<'a>(to: &[&str], credentials: Option<(&'a str, &'a str)>) -> Letter<'a> {
        let to = to.iter().map(ToString::to_string).collect();
        Letter { from: "a@x".into(), to, body: "Subject: s\r\n\r\n.hidden\r\n", credentials }
    }

    /// Talks to a server that answers line by line, and returns what it heard.
    async fn talk(answers: &[&str], letter: &Letter<'_>) -> (Result<Vec<String>, String>, String) {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(answers.concat().as_bytes()).await.expect("there is room");
        let result = async {
            let mut session = Session::begin(ours).await?;
            session.hello().await?;
            session.hand_over(letter).await
        };
        let result = result.await;
        let mut heard = Vec::new();
        theirs.shutdown().await.expect("it ends");
        theirs.read_to_end(&mut heard).await.expect("it is all there");
        (result, String::from_utf8(heard).expect("ASCII"))
    }

    const HELLO: &str = "220 hi\r\n250-me\r\n250-AUTH LOGIN PLAIN\r\n250 8BITMIME\r\n";

    #[tokio::test]
    async fn a_letter_is_handed_over_word_by_word() {
        let answers = [HELLO, "235 ok\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 queued\r\n", "221 bye\r\n"];
        let (result, heard) = talk(&answers, &letter(&["b@y"], Some(("me", "secret")))).await;
        assert_eq!(result, Ok(vec![]));
        let words = "EHLO [127.0.0.1]\r\nAUTH PLAIN AG1lAHNlY3JldA==\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nSubject: s\r\n\r\n\
                     ..hidden\r\n.\r\nQUIT\r\n";
        assert_eq!(heard, words);
    }

    #[tokio::test]
    async fn one_who_is_refused_for_good_is_left_out_and_one_refused_for_now_holds_all_back() {
        let answers =
            [HELLO, "250 ok\r\n", "550 who?\r\n", "250 ok\r\n", "354 go\r\n", "250 queued\r\n", "221 bye\r\n"];
        let (result, _) = talk(&answers, &letter(&["b@y", "c@y"], None)).await;
        assert_eq!(result, Ok(vec!["b@y: 550 who?".into()]));
        let answers = [HELLO, "250 ok\r\n", "250 ok\r\n", "451 later\r\n"];
        let (result, heard) = talk(&answers, &letter(&["b@y", "c@y"], None)).await;
        assert_eq!(result, Err("c@y: 451 later".into()));
        assert!(!heard.contains("DATA"), "{heard}");
        let answers = [HELLO, "250 ok\r\n", "550 who?\r\n"];
        assert!(talk(&answers, &letter(&["b@y"], None)).await.0.is_err(), "nobody is left");
    }

    #[tokio::test]
    async fn what_a_server_refuses_is_said_without_the_password() {
        for (answers, why) in [
            (vec!["554 go away\r\n"], "the server greets with 554 go away"),
            (vec!["hello\r\n"], "no reply of SMTP: hello"),
            (vec![HELLO, "535 no\r\n"], "the server does not know us: 535 no"),
            (vec!["220 hi\r\n250 me\r\n"], "the server offers neither AUTH PLAIN nor LOGIN"),
            (vec![HELLO, "235 ok\r\n", "552 too big\r\n"], "MAIL is answered 552 too big"),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            theirs.write_all(answers.concat().as_bytes()).await.expect("there is room");
            let letter = letter(&["b@y"], Some(("me", "hunter2")));
            let result = async {
                let mut session = Session::begin(ours).await?;
                session.hello().await?;
                session.hand_over(&letter).await
            };
            let error = result.await.expect_err(why);
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
    }
}
