//! TLS, TLS on both sides, SASL SCRAM: every client of Driftline goes through the same door, and says what is wrong with it.

use anyhow::{Context, Result, ensure};
use driftline_integration_tests::kafka::Topics;
use driftline_integration_tests::secure::SecureBroker;

use super::{CATCH_UP, Joined, MODEL, PIPELINE, configure, label, prediction, publish, readyz, until_joined};
use crate::sandbox::{Said, Sandbox};

const EVENTS: usize = 40;

/// A door, and the keys that open it.
struct Way {
    name: &'static str,
    brokers: String,
    properties: Vec<(&'static str, String)>,
    variables: Vec<(&'static str, String)>,
}

fn ways(broker: &SecureBroker, secret: &str) -> Vec<Way> {
    let ca = ("ssl.ca.location", broker.file("ca.pem"));
    let scram = |mechanism: &str| {
        vec![
            ("security.protocol", "sasl_ssl".to_owned()),
            ca.clone(),
            ("sasl.mechanisms", mechanism.to_owned()),
            ("sasl.username", "driftline".to_owned()),
        ]
    };
    let mut with_file = scram("SCRAM-SHA-512");
    with_file.push(("sasl.password_file", secret.to_owned()));
    vec![
        Way {
            name: "TLS",
            brokers: broker.ssl.clone(),
            properties: vec![("security.protocol", "ssl".to_owned()), ca.clone()],
            variables: vec![],
        },
        Way {
            name: "TLS on both sides",
            brokers: broker.mutual.clone(),
            properties: vec![
                ("security.protocol", "ssl".to_owned()),
                ca.clone(),
                ("ssl.certificate.location", broker.file("client.pem")),
                ("ssl.key.location", broker.file("client.key")),
            ],
            variables: vec![],
        },
        Way {
            name: "SCRAM-SHA-256, the password in a variable",
            brokers: broker.sasl_ssl.clone(),
            properties: scram("SCRAM-SHA-256"),
            variables: vec![("DRIFTLINE__KAFKA__PROPERTIES__SASL_PASSWORD", "driftline-secret".to_owned())],
        },
        Way {
            name: "SCRAM-SHA-512, the password in a file",
            brokers: broker.sasl_ssl.clone(),
            properties: with_file,
            variables: vec![],
        },
    ]
}

fn borrowed<'a>(pairs: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    pairs.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

/// Creating topics, publishing, reading, dead letters, `check`: each is a client of its own, and each must take the keys.
#[tokio::test(flavor = "multi_thread")]
async fn every_client_goes_through_every_door() -> Result<()> {
    let Some(broker) = SecureBroker::real("every_client_goes_through_every_door")? else { return Ok(()) };
    let folder = tempfile::tempdir().context("make a folder")?;
    let secret = folder.path().join("password").display().to_string();
    std::fs::write(&secret, "driftline-secret\n").context("write the password")?;
    for way in ways(&broker, &secret) {
        go_through(&broker, &way).await.context(way.name)?;
    }
    Ok(())
}

async fn go_through(broker: &SecureBroker, way: &Way) -> Result<()> {
    let topics = Topics::unique();
    let letters = topics.predictions.replace("predictions", "letters");
    let sandbox = Sandbox::new(&way.brokers, &topics, MODEL)?;
    let kafka = format!("create_topics = true\ncreate_partitions = 2\ndead_letter_topic = {letters:?}");
    configure(&sandbox, &kafka, &borrowed(&way.properties))?;
    let variables = borrowed(&way.variables);
    let run = async |arguments: &[&str]| {
        let said = sandbox.run_with(arguments, &variables).await?;
        ensure!(
            said.code == Some(0),
            "driftline {arguments:?} ended with {:?}:\n{}\n{}",
            said.code,
            said.stdout,
            said.stderr
        );
        Ok::<Said, anyhow::Error>(said)
    };
    let check = run(&["check"]).await?;
    ensure!(check.stdout.contains("will be created"), "{}", check.stdout);
    run(&CATCH_UP).await?;
    let lines = |line: fn(&str, usize) -> String| (0..EVENTS).map(|n| line("door", n) + "\n").collect::<String>();
    let predictions = lines(prediction) + "{\"prediction_id\":\"broken\"\n";
    for (name, text, topic) in
        [("p.jsonl", predictions, &topics.predictions), ("l.jsonl", lines(label), &topics.labels)]
    {
        std::fs::write(sandbox.path(name), text).context("write events")?;
        run(&["produce", name, "--topic", topic]).await?;
    }
    run(&CATCH_UP).await?;
    let check = run(&["check"]).await?;
    ensure!(check.stdout.contains(&format!("{}: 2 partition(s)", topics.labels)), "{}", check.stdout);
    Joined::default().and(EVENTS).check(&sandbox).await?;
    let published = (0..2).map(|partition| broker.plain.watermarks(&letters, partition)).collect::<Result<Vec<_>>>()?;
    ensure!(published.iter().map(|(_, high)| high).sum::<i64>() == 1, "one dead letter: {published:?}");
    Ok(())
}

/// A door that stays shut: what is wrong, and the words that say what to do about it.
struct Shut {
    name: &'static str,
    brokers: String,
    properties: Vec<(&'static str, String)>,
    words: &'static [&'static str],
    /// The client library can tell it from brokers that are merely away, which a run waits for.
    ends: bool,
}

fn shut(broker: &SecureBroker) -> Vec<Shut> {
    let ca = ("ssl.ca.location", broker.file("ca.pem"));
    let protocol = |name: &str| ("security.protocol", name.to_owned());
    vec![
        Shut {
            name: "a wrong password",
            brokers: broker.sasl_ssl.clone(),
            properties: vec![
                protocol("sasl_ssl"),
                ca.clone(),
                ("sasl.mechanisms", "SCRAM-SHA-512".to_owned()),
                ("sasl.username", "driftline".to_owned()),
                ("sasl.password", "guessed".to_owned()),
            ],
            words: &["invalid credentials", "\"sasl.password\""],
            ends: true,
        },
        Shut {
            name: "an unknown CA",
            brokers: broker.ssl.clone(),
            properties: vec![protocol("ssl"), ("ssl.ca.location", broker.file("stranger.pem"))],
            words: &["certificate verify failed", "\"ssl.ca.location\""],
            ends: true,
        },
        Shut {
            name: "no client certificate",
            brokers: broker.mutual.clone(),
            properties: vec![protocol("ssl"), ca],
            words: &["certificate", "\"ssl.certificate.location\"", "\"ssl.key.location\""],
            ends: true,
        },
        Shut {
            name: "plain text at a door of TLS",
            brokers: broker.ssl.clone(),
            properties: vec![protocol("plaintext")],
            words: &["do not answer", "\"security.protocol\""],
            ends: false,
        },
    ]
}

/// Commands that somebody waits for end, and say why.
#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_stays_shut_is_said_with_what_to_do() -> Result<()> {
    let Some(broker) = SecureBroker::real("a_door_that_stays_shut_is_said_with_what_to_do")? else { return Ok(()) };
    for Shut { name, brokers, properties, words, ends } in shut(&broker) {
        let sandbox = Sandbox::new(&brokers, &Topics::unique(), MODEL)?;
        configure(&sandbox, "", &borrowed(&properties))?;
        std::fs::write(sandbox.path("p.jsonl"), prediction("shut", 0)).context("write an event")?;
        let commands: [(&[&str], i32); 3] =
            [(&["check"], 3), (&["produce", "p.jsonl", "--topic", "t"], 1), (&CATCH_UP, 1)];
        let commands = &commands[..if ends { 3 } else { 2 }];
        let said = commands.iter().map(|(arguments, _)| sandbox.run(arguments));
        for ((arguments, code), said) in commands.iter().zip(futures::future::try_join_all(said).await?) {
            let text = format!("{}{}", said.stdout, said.stderr);
            ensure!(said.code == Some(*code), "{name}: driftline {arguments:?} ended with {:?}:\n{text}", said.code);
            for word in words {
                ensure!(text.contains(word), "{name}: driftline {arguments:?} does not say {word}:\n{text}");
            }
            let mut tell = text.lines().filter(|line| line.contains(words[words.len() - 1]));
            eprintln!("{name}: driftline {}: {}", arguments[0], tell.next().unwrap_or_default());
        }
    }
    Ok(())
}

/// A pipeline waits at a door that does not open, says so, and goes in when it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_mended_lets_the_pipeline_in() -> Result<()> {
    let Some(broker) = SecureBroker::real("a_password_that_is_mended_lets_the_pipeline_in")? else { return Ok(()) };
    let topics = Topics::unique();
    for topic in [&topics.predictions, &topics.labels] {
        broker.plain.create_topic(topic, 2).await?;
    }
    publish(&broker.plain, &topics, "mended", EVENTS).await?;
    // Whoever comes twice to this broker brings another password.
    let password = topics.predictions.clone();
    let sandbox = Sandbox::new(&broker.sasl_ssl, &topics, MODEL)?;
    let properties = [
        ("security.protocol", "sasl_ssl"),
        ("ssl.ca.location", &broker.file("ca.pem")),
        ("sasl.mechanisms", "SCRAM-SHA-256"),
        ("sasl.username", "forgetful"),
        ("sasl.password", &password),
        ("reconnect.backoff.max.ms", "1000"),
    ];
    configure(&sandbox, "", &properties)?;
    let process = sandbox.spawn("pipeline", &PIPELINE)?;
    readyz(&process, 503, &["invalid credentials", "sasl.password"]).await?;
    for right in ["--topic", "--group"] {
        broker.grant("forgetful", "READ", &[right, "*"])?;
    }
    let credentials = format!("SCRAM-SHA-256=[password={password}]");
    let arguments = ["--alter", "--add-config", &credentials, "--entity-type", "users", "--entity-name", "forgetful"];
    broker.tool("kafka.admin.ConfigCommand", &arguments)?;
    let took = readyz(&process, 200, &[]).await?;
    eprintln!("ready {took:?} after the password was mended");
    until_joined(&sandbox, &process, Joined::default().and(EVENTS)).await?;
    process.terminate().await?;
    Ok(())
}
