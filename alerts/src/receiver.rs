//! A receiver for tests: on this machine, answering what it is told to.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

#[derive(Clone, Default)]
pub(crate) struct Receiver {
    received: Arc<Mutex<Vec<Received>>>,
    /// Status and headers of the next answers, by path; 200 afterwards. Status 0 never answers.
    answers: Arc<Mutex<BTreeMap<String, Vec<Answer>>>>,
}

/// A status, and a header.
type Answer = (u16, Option<(&'static str, String)>);

impl Receiver {
    /// Starts it, and returns its address.
    pub(crate) async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    pub(crate) fn at(&self, path: &str) -> Vec<Received> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.iter().filter(|one| one.path == path).cloned().collect()
    }

    pub(crate) fn will_answer(&self, path: &str, answers: &[Answer]) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), answers.to_vec());
    }
}

async fn answer(State(receiver): State<Receiver>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path().to_owned();
    let headers = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let received =
        Received { path: path.clone(), headers: headers.collect(), body: String::from_utf8_lossy(&body).into_owned() };
    receiver.received.lock().unwrap_or_else(PoisonError::into_inner).push(received);
    let next = {
        let mut answers = receiver.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get_mut(&path).filter(|left| !left.is_empty()).map(|left| left.remove(0))
    };
    let Some((status, header)) = next else { return StatusCode::OK.into_response() };
    if status == 0 {
        return std::future::pending().await;
    }
    let status = StatusCode::from_u16(status).expect("a status");
    match header {
        Some((name, value)) => (status, [(name, value)]).into_response(),
        None => status.into_response(),
    }
}
