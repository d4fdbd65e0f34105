//! What brokers refuse, in words that name what to do: a right that is missing, credentials, certificates.
use std::collections::BTreeMap;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::describe::Operation;

/// Who we are to the brokers, and where they are: enough to name the missing right and the command that grants it.
#[derive(Debug, Clone)]
pub struct Asker {
    brokers: String,
    /// `None` where only the broker knows: the subject of a certificate, Kerberos, a token.
    principal: Option<String>,
}

/// What a right is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource<'a> {
    Topic(&'a str),
    Group(&'a str),
}

impl Asker {
    /// Reads the principal out of librdkafka's properties.
    pub fn new(brokers: &str, properties: &BTreeMap<String, String>) -> Self {
        let text = |key: &str| properties.get(key).filter(|text| !text.is_empty());
        let protocol = text("security.protocol").map_or(String::new(), |text| text.to_lowercase());
        let mechanism = text("sasl.mechanisms").or_else(|| text("sasl.mechanism")).map_or("", String::as_str);
        let principal = if protocol.starts_with("sasl") {
            let by_name = mechanism.to_uppercase();
            let by_name = by_name == "PLAIN" || by_name.starts_with("SCRAM");
            text("sasl.username").filter(|_| by_name).map(|name| format!("User:{name}"))
        } else if protocol == "ssl"
            && properties.keys().any(|key| key.starts_with("ssl.cert") || key.starts_with("ssl.keys"))
        {
            None
        } else {
            Some("User:ANONYMOUS".to_owned())
        };
        Self { brokers: brokers.to_owned(), principal }
    }

    /// What is missing, and the command that grants it.
    pub(crate) fn denied(&self, operation: Operation, resource: Resource<'_>) -> String {
        self.say(name(operation), operation, resource)
    }

    /// As [`Asker::denied`], where the broker does not even say whether the thing exists. What it is needed for includes the
    /// right to see it.
    pub(crate) fn hidden(&self, operation: Operation, resource: Resource<'_>) -> String {
        self.say(&format!("DESCRIBE or {}", name(operation)), operation, resource)
    }

    fn say(&self, lacks: &str, operation: Operation, resource: Resource<'_>) -> String {
        let operation = name(operation);
        let (kind, name) = match resource {
            Resource::Topic(name) => ("topic", name),
            Resource::Group(name) => ("group", name),
        };
        let who = self.principal.as_deref().unwrap_or("this client's principal");
        let allow = self.principal.as_deref().unwrap_or("User:…");
        format!(
            "{who} may not {lacks} {kind} {name}; grant it: `kafka-acls.sh --bootstrap-server {} --add --allow-principal \
             '{allow}' --operation {operation} --{kind} '{name}'`",
            self.brokers
        )
    }

    /// As [`Asker::denied`], for someone who publishes: `None` if the error is not about rights.
    pub fn cannot_publish(&self, error: &KafkaError, topic: &str) -> Option<String> {
        match error.rdkafka_error_code()? {
            // A producer that writes each record once needs a number of its own, which a broker gives to whoever may write
            // to any topic; it answers so before it has seen which one is meant.
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                Some(self.denied(Operation::Write, Resource::Topic(topic)))
            }
            _ => None,
        }
    }
}

fn name(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "READ",
        Operation::Write => "WRITE",
        Operation::Create => "CREATE",
        Operation::DescribeConfigs => "DESCRIBE_CONFIGS",
    }
}

/// What a person can do about brokers that cannot be reached, if `reason`, the client library's own words, tells.
/// `None` for those that are merely away: they will come back.
pub fn of_connection(error: &KafkaError, reason: &str) -> Option<String> {
    let code = error.rdkafka_error_code()?;
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let advice = if matches!(code, RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) {
        "check kafka.properties.\"sasl.username\", \"sasl.password\" (or \"sasl.password_file\") and \"sasl.mechanisms\""
    } else if says(&["certificate verify failed"]) {
        "set kafka.properties.\"ssl.ca.location\" to the PEM file of the CA that signed the brokers' certificates"
    } else if says(&["alert certificate", "alert bad certificate", "alert unknown ca", "alert handshake failure"]) {
        // The broker hangs up after its alert, so the client library calls it a failure of the transport.
        "the brokers want a client's certificate that they trust: set kafka.properties.\"ssl.certificate.location\" and \
         \"ssl.key.location\""
    } else if code == RDKafkaErrorCode::SSL {
        "check kafka.properties.\"security.protocol\" and those that begin with \"ssl.\""
    } else {
        return None;
    };
    Some(format!("{reason}: {advice}"))
}

/// What may be wrong where the client library itself has nothing to say: a listener of TLS hangs up on plain text.
pub const AWAY: &str =
    "set kafka.brokers or --brokers; a listener that wants TLS or SASL needs kafka.properties.\"security.protocol\"";

/// What a person can do about an error of the group or of reading that the client would repeat for ever.
pub(crate) fn of_reading(code: RDKafkaErrorCode) -> Option<&'static str> {
    match code {
        RDKafkaErrorCode::InvalidSessionTimeout => Some(
            "set kafka.properties.\"session.timeout.ms\" between the brokers' group.min and group.max.session.timeout.ms",
        ),
        RDKafkaErrorCode::GroupAuthorizationFailed => Some("grant READ on the consumer group kafka.group"),
        RDKafkaErrorCode::TopicAuthorizationFailed => Some("grant READ and DESCRIBE on the topics"),
        RDKafkaErrorCode::ClusterAuthorizationFailed => Some("grant DESCRIBE on the cluster"),
        RDKafkaErrorCode::InconsistentGroupProtocol => {
            Some("other members of the group do not rebalance cooperatively; choose another kafka.group")
        }
        RDKafkaErrorCode::InvalidGroupId => Some("choose another kafka.group"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(properties: &[(&str, &str)]) -> Asker {
        let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Asker::new("b:1", &properties)
    }

    #[test]
    fn a_missing_right_is_named_with_its_owner_and_the_command_that_grants_it() {
        let scram = [("security.protocol", "SASL_SSL"), ("sasl.mechanisms", "SCRAM-SHA-512"), ("sasl.username", "ann")];
        let said = asker(&scram).denied(Operation::Read, Resource::Topic("t"));
        assert_eq!(
            said,
            "User:ann may not READ topic t; grant it: `kafka-acls.sh --bootstrap-server b:1 --add --allow-principal 'User:ann' \
             --operation READ --topic 't'`"
        );
        let said = asker(&[]).denied(Operation::Read, Resource::Group("g"));
        assert!(said.starts_with("User:ANONYMOUS may not READ group g;") && said.contains("--group 'g'"), "{said}");
        let mutual = [("security.protocol", "ssl"), ("ssl.certificate.location", "/c.pem")];
        let said = asker(&mutual).denied(Operation::Write, Resource::Topic("t"));
        assert!(said.starts_with("this client's principal may not WRITE"), "{said}");
        let kerberos = [("security.protocol", "sasl_plaintext"), ("sasl.mechanisms", "GSSAPI"), ("sasl.username", "x")];
        assert_eq!(asker(&kerberos).principal, None);
    }

    #[test]
    fn brokers_that_are_merely_away_are_no_refusal() {
        let of = |code, reason: &str| of_connection(&KafkaError::Global(code), reason);
        assert_eq!(of(RDKafkaErrorCode::BrokerTransportFailure, "Connection refused"), None);
        assert_eq!(of(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down"), None);
        for (code, reason, advice) in [
            (RDKafkaErrorCode::Authentication, "SASL authentication error: …", "sasl.password"),
            (RDKafkaErrorCode::SSL, "…:certificate verify failed: …", "ssl.ca.location"),
            (RDKafkaErrorCode::SSL, "…tlsv13 alert certificate required: …", "ssl.certificate.location"),
            (RDKafkaErrorCode::BrokerTransportFailure, "…sslv3 alert bad certificate: …", "ssl.key.location"),
            (RDKafkaErrorCode::SSL, "SSL handshake failed: wrong version number", "security.protocol"),
        ] {
            let said = of(code, reason).unwrap_or_default();
            assert!(said.contains(reason) && said.contains(advice), "{said}");
        }
    }
}
