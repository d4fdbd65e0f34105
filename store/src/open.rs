//! From a URL to a store.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, Certificate, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
    prefix::PrefixStore,
};
use percent_encoding::percent_decode_str;

use crate::{Error, Operation, Store, local::LocalStore};

/// Of one request, body included. Shorter cuts off a large object on a slow line; longer keeps a dead connection.
const REQUEST_TIMEOUT: &str = "120 seconds";
/// The one option that is not object_store's: certificates in PEM that are trusted besides the system's, for a store behind
/// a private authority. `store.options.ca_certificate_file` names a file with them.
const CA_CERTIFICATE: &str = "ca_certificate";
/// The same for S3 by the name that AWS's own tools know: a file.
const AWS_CA_BUNDLE: &str = "AWS_CA_BUNDLE";

impl Store {
    /// Opens `s3://bucket/prefix`, `gs://…`, `az://…`, `file:///folder`, `memory://`, or a folder's plain path (made if it
    /// is not there).
    ///
    /// Settings come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`, `GOOGLE_…`, `AZURE_…`),
    /// and above that from `options`, whose keys are object_store's (`aws_access_key_id`, `endpoint_url`, `timeout`, …) and
    /// `ca_certificate`: certificates in PEM that are trusted besides the system's.
    /// Nothing is asked of the store yet: see [`Store::probe`].
    ///
    /// # Errors
    /// [`Error::Permanent`] if the URL or a key is not known, or the folder cannot be made.
    pub fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Self, Error> {
        let backend: Arc<dyn ObjectStore> = match url.split_once("://") {
            None if url.is_empty() => return Err(refused(url, "the store's url is empty")),
            None => Arc::new(LocalStore::open(url.as_ref()).map_err(|error| refused(url, error))?),
            Some(("file", rest)) => {
                let rest = rest.strip_prefix("localhost").unwrap_or(rest);
                if !rest.starts_with('/') {
                    return Err(refused(url, "a file url has three slashes: file:///folder"));
                }
                let folder = percent_decode_str(rest).decode_utf8_lossy();
                Arc::new(LocalStore::open(folder.as_ref().as_ref()).map_err(|error| refused(url, error))?)
            }
            Some(("memory", "" | "/")) => Arc::new(object_store::memory::InMemory::new()),
            Some(("s3" | "s3a", rest)) => below(rest, s3(url, options).map_err(|error| refused(url, error))?, url)?,
            Some(("gs", rest)) => below(rest, gcs(url, options).map_err(|error| refused(url, error))?, url)?,
            Some(("az" | "azure" | "abfs" | "abfss", rest)) => {
                below(rest, azure(url, options).map_err(|error| refused(url, error))?, url)?
            }
            Some(_) => {
                let known = "known are s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder, memory:// and a folder's path";
                return Err(refused(url, known));
            }
        };
        Ok(Self::over(url, backend))
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn s3(url: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>, Cause> {
    let bundle = std::env::var(AWS_CA_BUNDLE).ok().filter(|file| !file.is_empty());
    let mut builder = AmazonS3Builder::from_env().with_client_options(client(options, bundle.as_deref())?);
    for (key, value) in client_settings("AWS_") {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    builder = builder
        .with_url(url)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
        .with_retry(no_retries());
    for (key, value) in clients_own(options) {
        let known = key.to_ascii_lowercase().parse::<AmazonS3ConfigKey>().map_err(|_| unknown_key(key))?;
        builder = builder.with_config(known, value);
    }
    let setting = |key| builder.get_config_value(&key).unwrap_or_default();
    let endpoint = setting(AmazonS3ConfigKey::Endpoint);
    if endpoint.starts_with("http://") && setting(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)) != "true" {
        return Err(
            format!("the endpoint {endpoint} is not encrypted; set AWS_ALLOW_HTTP=true if that is meant").into()
        );
    }
    Ok(Arc::new(builder.build()?))
}

fn gcs(url: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>, Cause> {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_client_options(client(options, None)?);
    for (key, value) in client_settings("GOOGLE_") {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    builder = builder
        .with_url(url)
        .with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
        .with_retry(no_retries());
    for (key, value) in clients_own(options) {
        let known = key.to_ascii_lowercase().parse::<GoogleConfigKey>().map_err(|_| unknown_key(key))?;
        builder = builder.with_config(known, value);
    }
    Ok(Arc::new(builder.build()?))
}

fn azure(url: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>, Cause> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_client_options(client(options, None)?);
    for (key, value) in client_settings("AZURE_") {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    builder = builder
        .with_url(url)
        .with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
        .with_retry(no_retries());
    for (key, value) in clients_own(options) {
        let known = key.to_ascii_lowercase().parse::<AzureConfigKey>().map_err(|_| unknown_key(key))?;
        builder = builder.with_config(known, value);
    }
    Ok(Arc::new(builder.build()?))
}

/// The HTTP client before any setting: it trusts the system's authorities and those that the options or `bundle` bring.
fn client(options: &BTreeMap<String, String>, bundle: Option<&str>) -> Result<ClientOptions, Cause> {
    let named = options.iter().find(|(key, _)| key.eq_ignore_ascii_case(CA_CERTIFICATE));
    let (origin, pem) = match (named, bundle) {
        (Some((key, pem)), _) => (format!("the store option {key}"), pem.clone().into_bytes()),
        (None, Some(file)) => {
            let pem = std::fs::read(file).map_err(|error| format!("{AWS_CA_BUNDLE}: cannot read {file}: {error}"))?;
            (format!("{AWS_CA_BUNDLE} ({file})"), pem)
        }
        (None, None) => return Ok(ClientOptions::new()),
    };
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| format!("{origin}: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{origin} holds no certificate; it must be PEM: -----BEGIN CERTIFICATE-----").into());
    }
    Ok(certificates.into_iter().fold(ClientOptions::new(), ClientOptions::with_root_certificate))
}

/// What the environment says of the HTTP client (`AWS_ALLOW_HTTP`, `AWS_PROXY_URL`, …). The builders read it too, but what
/// they have read is lost when they are given a client that knows further authorities.
fn client_settings(prefix: &str) -> Vec<(ClientConfigKey, String)> {
    let settings = std::env::vars_os().filter_map(|(key, value)| {
        let key = key.to_str()?.strip_prefix(prefix)?.to_ascii_lowercase();
        Some((key.parse().ok()?, value.into_string().ok()?))
    });
    settings.collect()
}

/// The options that object_store knows.
fn clients_own(options: &BTreeMap<String, String>) -> impl Iterator<Item = (&String, &String)> {
    options.iter().filter(|(key, _)| !key.eq_ignore_ascii_case(CA_CERTIFICATE))
}

/// The client's own retries are off: if it put twice and handed up the second answer, "it has another version" could
/// mean one's own first put. [`crate::RetryPolicy`] asks again instead, and reads in between.
fn no_retries() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO }
}

/// The store seen from the prefix in `rest`, which is the URL after its scheme.
fn below(rest: &str, bucket: Arc<dyn ObjectStore>, url: &str) -> Result<Arc<dyn ObjectStore>, Error> {
    let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix);
    let prefix = Path::parse(prefix).map_err(|error| refused(url, error))?;
    Ok(if prefix.as_ref().is_empty() { bucket } else { Arc::new(PrefixStore::new(bucket, prefix)) })
}

fn unknown_key(key: &str) -> Cause {
    format!("the store option {key:?} is not known").into()
}

fn refused(url: &str, cause: impl ToString) -> Error {
    Error::Permanent {
        operation: Operation::Head,
        path: url.into(),
        advice: "check the store's url and options".into(),
        cause: cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, options: &[(&str, &str)]) -> Result<Store, Error> {
        Store::open(url, &options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    }

    #[test]
    fn urls_are_understood_or_refused_with_a_reason() {
        let keys = [("aws_access_key_id", "k"), ("aws_secret_access_key", "s"), ("region", "eu-west-1")];
        for url in ["s3://bucket", "s3://bucket/", "s3://bucket/a/b", "s3://bucket/a/b/"] {
            assert_eq!(open(url, &keys).unwrap().url(), url);
        }
        assert!(open("memory://", &[]).is_ok());
        for (url, options, reason) in [
            ("", &[][..], "empty"),
            ("ftp://host/x", &[], "known are s3://"),
            ("file://folder/x", &[], "three slashes"),
            ("s3://bucket/a//b", &keys, "empty path segment"),
            ("s3://bucket/a/../b", &keys, ".."),
            ("s3://bucket", &[("colour", "blue")], "\"colour\" is not known"),
            ("s3://bucket", &[("ca_certificate", "/etc/ca.pem")], "option ca_certificate holds no certificate"),
            ("az://bucket", &[("CA_CERTIFICATE", "")], "option CA_CERTIFICATE holds no certificate"),
            (
                "s3://bucket",
                &[("endpoint_url", "http://localhost:9000"), ("allow_http", "false")],
                "AWS_ALLOW_HTTP=true",
            ),
        ] {
            let error = open(url, options).expect_err(url).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_folder_is_made_and_a_file_url_is_decoded() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        open(&root.join("new/folder").to_string_lossy(), &[]).unwrap();
        assert!(root.join("new/folder").is_dir());
        open(&format!("file://{}/with%20space", root.display()), &[]).unwrap();
        assert!(root.join("with space").is_dir());
        std::fs::write(root.join("file"), "").unwrap();
        assert!(matches!(open(&root.join("file").to_string_lossy(), &[]), Err(Error::Permanent { .. })));
    }
}
