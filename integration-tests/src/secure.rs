//! A real Kafka with doors: TLS, TLS on both sides, SASL SCRAM over TLS, and an authorizer that denies what nobody has granted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::kafka::Broker;

/// The port of the broker that tests start themselves; another one is named by `DRIFTLINE_TEST_SECURE_PORT`.
const PORT: &str = "19192";
/// How often a tool is run while the broker does not answer it in its own minute.
const TRIES: usize = 3;

/// The broker, and the ways in. Its users: `driftline` may all, `limited` and `forgetful` nothing that is not granted.
#[derive(Clone, Debug)]
pub struct SecureBroker {
    port: String,
    /// The way without any door: whoever comes is ANONYMOUS, and may all.
    pub plain: Broker,
    /// TLS, and SCRAM.
    pub sasl_ssl: String,
    /// TLS.
    pub ssl: String,
    /// TLS with a client's certificate.
    pub mutual: String,
    certificates: PathBuf,
}

impl SecureBroker {
    /// The shared one, which `scripts/kafka.sh` starts or finds running.
    ///
    /// # Returns
    /// `None` without Java or Maven, after saying so loudly.
    /// # Errors
    /// The broker did not start; or what it needs is missing and `DRIFTLINE_REQUIRE_ALL=1` forbids the skip.
    pub fn real(test: &str) -> Result<Option<Self>> {
        let has = |program: &str, argument: &str| {
            Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
        };
        if !(has("java", "-version") && has("mvn", "--version") && has("openssl", "version")) {
            let reason = format!("{test} needs a real Kafka with TLS: install Java 17, Maven and openssl");
            ensure!(std::env::var("DRIFTLINE_REQUIRE_ALL").as_deref() != Ok("1"), reason);
            eprintln!("SKIPPED: {reason}");
            return Ok(None);
        }
        let port = std::env::var("DRIFTLINE_TEST_SECURE_PORT").unwrap_or_else(|_| PORT.to_owned());
        let said = script(&port, &["start"])?;
        let find = |key: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.map(str::to_owned).with_context(|| format!("scripts/kafka.sh start says no {key}: {said}"))
        };
        Ok(Some(Self {
            plain: Broker::at(&find("brokers")?),
            sasl_ssl: find("sasl_ssl")?,
            ssl: find("ssl")?,
            mutual: find("mutual")?,
            certificates: find("certificates")?.into(),
            port,
        }))
    }

    /// The path of a certificate or a key.
    pub fn file(&self, name: &str) -> String {
        self.certificates.join(name).display().to_string()
    }

    /// Where the broker keeps a partition's records.
    pub fn log(&self, topic: &str, partition: i32) -> PathBuf {
        let home = self.certificates.parent().expect("the certificates lie in the broker's folder");
        home.join("data").join(format!("{topic}-{partition}"))
    }

    /// Runs one of Kafka's tools; it must succeed, once the broker answers.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["run", class, "--bootstrap-server", self.plain.brokers()];
        all.extend(arguments);
        let mut tries = TRIES;
        loop {
            match script(&self.port, &all) {
                // A machine that stood still has fenced its only broker. What tests do with tools can be done twice.
                Err(error) if tries > 1 && format!("{error:#}").contains("TimeoutException") => tries -= 1,
                answer => return answer,
            }
        }
    }

    /// Grants a right, with `kafka-acls`.
    pub fn grant(&self, user: &str, operation: &str, resources: &[&str]) -> Result<()> {
        self.acl("--add", user, operation, resources)
    }

    /// Takes a right away again.
    pub fn withdraw(&self, user: &str, operation: &str, resources: &[&str]) -> Result<()> {
        let mut all = resources.to_vec();
        all.push("--force");
        self.acl("--remove", user, operation, &all)
    }

    fn acl(&self, what: &str, user: &str, operation: &str, resources: &[&str]) -> Result<()> {
        let principal = format!("User:{user}");
        let mut arguments = vec![what, "--allow-principal", &principal, "--operation", operation];
        arguments.extend(resources);
        self.tool("org.apache.kafka.tools.AclCommand", &arguments).map(drop)
    }
}

fn script(port: &str, arguments: &[&str]) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka.sh");
    let mut command = Command::new("bash");
    command.arg(&script).args(arguments).env("DRIFTLINE_KAFKA_SECURE", "1").env("DRIFTLINE_KAFKA_PORT", port);
    let output = command.output().context("run scripts/kafka.sh")?;
    let (said, erred) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "scripts/kafka.sh {arguments:?}: {said}\n{erred}");
    Ok(said.into_owned())
}
