//! The table of routes: immutable once compiled, replaced as a whole by the next snapshot.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use http::{HeaderName, HeaderValue, Request, uri::PathAndQuery};

use super::{InvalidFilter, Route, TopicFilter, path::normalized};
use crate::{
    backend::{Backend, Batcher},
    settings::{self, BackendKind, Settings},
    transport::tls::PeerIdentity,
};

/// Every route, in the order of the configuration; the first match wins.
#[derive(Debug, Default)]
pub struct RouteTable {
    requests: Vec<RequestRule>,
    /// Rules with an exact path, by that path; indexes into `requests`, ascending.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// The other rules: indexes into `requests`, ascending.
    inexact: Vec<usize>,
    topics: Vec<(TopicFilter, Arc<Route>)>,
    backends: HashMap<Arc<str>, Arc<Backend>>,
}

/// What is wrong with a route. Names the route and says what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The route names a backend that is not there.
    #[error("route `{route}`: there is no backend `{backend}`; add it or name one that exists")]
    UnknownBackend {
        /// The route's name.
        route: Arc<str>,
        /// The name that was not found.
        backend: Arc<str>,
    },
    /// The topic filter breaks MQTT's rules.
    #[error("route `{route}`: topic filter: {source}")]
    Topic {
        /// The route's name.
        route: Arc<str>,
        /// The rule that it breaks.
        source: InvalidFilter,
    },
    /// The header's name or value cannot stand in an HTTP header.
    #[error("route `{0}`: `header` wants a lower-case HTTP header name and a visible ASCII value")]
    Header(Arc<str>),
    /// A topic route to a gRPC or HTTP backend does not say what to call.
    #[error(
        "route `{0}`: a topic route to an HTTP or gRPC backend needs `call`, a path that begins with `/`"
    )]
    Call(Arc<str>),
    /// Requests cannot go to an MQTT broker.
    #[error("route `{0}`: a backend of kind mqtt takes messages only; set `topic` instead of `path`")]
    RequestToBroker(Arc<str>),
}

#[derive(Debug)]
struct RequestRule {
    path: PathPattern,
    host: Option<HostPattern>,
    header: Option<(HeaderName, HeaderValue)>,
    route: Arc<Route>,
}

#[derive(Debug)]
enum PathPattern {
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
}

#[derive(Debug)]
enum HostPattern {
    Exact(Box<str>),
    /// With its leading dot.
    Suffix(Box<str>),
}

impl RouteTable {
    /// Builds the table and its backends; no connection is made yet.
    pub fn compile(settings: &Settings) -> Result<Self, RouteError> {
        Self::default().recompile(settings)
    }

    /// Builds the table of new settings. Backends whose settings did not change are taken over with
    /// their connections.
    pub fn recompile(&self, settings: &Settings) -> Result<Self, RouteError> {
        let mut table = Self::default();
        for backend in &settings.backends {
            let kept = self.backends.get(&backend.name).filter(|old| old.settings() == backend);
            let built = kept.cloned().unwrap_or_else(|| Arc::new(Backend::new(backend.clone())));
            table.backends.insert(backend.name.clone(), built);
        }
        for route in &settings.routes {
            table.add(route)?;
        }
        Ok(table)
    }

    /// The first route that a request matches.
    pub fn match_request<B>(
        &self,
        request: &Request<B>,
        identity: Option<&PeerIdentity>,
    ) -> Option<&Arc<Route>> {
        let path = &*normalized(request.uri().path());
        let exact = self.exact.get(path).map(Vec::as_slice).unwrap_or_default();
        let matches = |&index: &usize| self.requests[index].matches(path, request, identity);
        let exact = exact.iter().copied().find(matches);
        let inexact = self
            .inexact
            .iter()
            .copied()
            .take_while(|&index| exact.is_none_or(|exact| index < exact))
            .find(matches);
        inexact.or(exact).map(|index| &self.requests[index].route)
    }

    /// The first route whose filter matches a topic name, and what its wildcards matched: one entry for
    /// each `+`, one for `#` with the remaining levels.
    pub fn match_topic<'t>(
        &self,
        topic: &'t str,
        identity: Option<&PeerIdentity>,
    ) -> Option<(&Arc<Route>, Vec<&'t str>)> {
        let topics = self.topics.iter().filter(|(_, route)| route.is_for(identity));
        topics.into_iter().find_map(|(filter, route)| Some((route, filter.captures(topic)?)))
    }

    /// The route called `name`, if it takes messages.
    pub fn topic_route(&self, name: &str) -> Option<&Arc<Route>> {
        self.topics.iter().map(|(_, route)| route).find(|route| &*route.name == name)
    }

    /// What the wildcards of a route's filter match in a topic, if it does.
    pub fn captures(&self, route: &Route, topic: &str) -> Option<Vec<String>> {
        let (filter, _) = self.topics.iter().find(|(_, candidate)| candidate.name == route.name)?;
        Some(filter.captures(topic)?.into_iter().map(str::to_owned).collect())
    }

    /// The backend called `name`.
    pub fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.backends.get(name)
    }

    /// The backends by name.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.values()
    }

    fn add(&mut self, rule: &settings::Route) -> Result<(), RouteError> {
        let route = Arc::new(self.compile_route(rule)?);
        if let Some(topic) = &rule.topic {
            let filter = TopicFilter::parse(topic)
                .map_err(|source| RouteError::Topic { route: rule.name.clone(), source })?;
            self.topics.push((filter, route));
            return Ok(());
        }
        if route.backend.settings().kind == BackendKind::Mqtt {
            return Err(RouteError::RequestToBroker(rule.name.clone()));
        }
        let index = self.requests.len();
        let rule = RequestRule::compile(rule, route)?;
        match &rule.path {
            PathPattern::Exact(path) => self.exact.entry(path.clone()).or_default().push(index),
            PathPattern::Prefix(_) | PathPattern::Any => self.inexact.push(index),
        }
        self.requests.push(rule);
        Ok(())
    }

    fn compile_route(&self, rule: &settings::Route) -> Result<Route, RouteError> {
        let backend = self.backends.get(&rule.backend).cloned().ok_or_else(|| {
            RouteError::UnknownBackend { route: rule.name.clone(), backend: rule.backend.clone() }
        })?;
        let call = match &rule.call {
            Some(call) if call.starts_with('/') => call.parse::<PathAndQuery>().ok(),
            Some(_) | None => None,
        };
        let wants_call = rule.topic.is_some() && backend.settings().kind != BackendKind::Mqtt;
        if call.is_none() && (wants_call || rule.call.is_some()) {
            return Err(RouteError::Call(rule.name.clone()));
        }
        Ok(Route {
            name: rule.name.clone(),
            backend,
            call,
            timeout: rule.timeout,
            client_certificate: rule.client_certificate.clone(),
            encrypted_only: rule.encrypted_only,
            idempotent: rule.idempotent,
            sampling: rule.sampling.clone(),
            dcz: rule.dcz,
            durable: rule.durable,
            delivery: rule.delivery.clone(),
            batcher: rule.delivery.batch.map(Batcher::new),
            meters: OnceLock::new(),
        })
    }
}

impl RequestRule {
    fn compile(rule: &settings::Route, route: Arc<Route>) -> Result<Self, RouteError> {
        let header = match &rule.header {
            None => None,
            Some((name, value)) => {
                let name = HeaderName::from_lowercase(name.as_bytes());
                let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) else {
                    return Err(RouteError::Header(rule.name.clone()));
                };
                Some((name, value))
            }
        };
        let path = PathPattern::compile(rule.path.as_deref());
        Ok(Self { path, host: rule.host.as_deref().map(HostPattern::compile), header, route })
    }

    fn matches<B>(&self, path: &str, request: &Request<B>, identity: Option<&PeerIdentity>) -> bool {
        self.route.is_for(identity)
            && self.path.matches(path)
            && self.host.as_ref().is_none_or(|host| host_of(request).is_some_and(|h| host.matches(h)))
            && self.header.as_ref().is_none_or(|(name, value)| {
                request.headers().get_all(name).iter().any(|candidate| candidate == value)
            })
    }
}

impl PathPattern {
    fn compile(path: Option<&str>) -> Self {
        match path {
            None => Self::Any,
            Some(path) => match path.strip_suffix('*') {
                Some(prefix) => Self::Prefix(normalized(prefix).into()),
                None => Self::Exact(normalized(path).into()),
            },
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => path.starts_with(&**prefix),
        }
    }
}

impl HostPattern {
    fn compile(host: &str) -> Self {
        match host.strip_prefix('*') {
            Some(suffix) => Self::Suffix(suffix.into()),
            None => Self::Exact(host.into()),
        }
    }

    /// Host names are compared without regard to case (RFC 9110, section 4.2.3).
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.eq_ignore_ascii_case(host),
            Self::Suffix(suffix) => {
                let (host, suffix) = (host.as_bytes(), suffix.as_bytes());
                host.len() > suffix.len() && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
            }
        }
    }
}

/// The host without port: of the authority, or of `Host` where HTTP/1.1 has it.
fn host_of<B>(request: &Request<B>) -> Option<&str> {
    if let Some(host) = request.uri().host() {
        return Some(host);
    }
    let host = request.headers().get(http::header::HOST)?.to_str().ok()?;
    // An IPv6 literal keeps its brackets, as `Uri::host` has it.
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    Some(&host[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(name: &str, address: &str) -> settings::Backend {
        settings::Backend { connections_max: 1, ..settings::Backend::new(name, BackendKind::Http2, address) }
    }

    fn route(name: &str, path: Option<&str>) -> settings::Route {
        settings::Route { path: path.map(str::to_owned), ..settings::Route::new(name, "b") }
    }

    fn settings(routes: Vec<settings::Route>) -> Settings {
        Settings { backends: vec![backend("b", "localhost:1")], routes, ..Settings::default() }
    }

    #[track_caller]
    fn check(table: &RouteTable, uri: &str, fields: &[(&'static str, &'static str)], expected: &str) {
        let mut request = Request::get(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let name = table.match_request(&request, None).map_or("", |route| &*route.name);
        assert_eq!(name, expected, "{uri} {fields:?}");
    }

    #[test]
    fn the_first_match_wins_whatever_its_kind() {
        let table = RouteTable::compile(&settings(vec![
            route("exact early", Some("/a/b")),
            route("prefix", Some("/a/*")),
            route("exact late", Some("/a/c")),
            settings::Route { host: Some("*.h2.example".to_owned()), ..route("suffix", None) },
            settings::Route { host: Some("one.example".to_owned()), ..route("host", None) },
            settings::Route {
                header: Some(("x-canary".to_owned(), "yes".to_owned())),
                ..route("header", None)
            },
            route("exact last", Some("/z")),
        ]));
        let table = table.expect("in order");
        check(&table, "/a/b", &[], "exact early");
        check(&table, "/a/b?query", &[], "exact early");
        check(&table, "/a/c", &[], "prefix");
        check(&table, "/a", &[], "");
        check(&table, "/z", &[], "exact last");
        check(&table, "/z", &[("x-canary", "yes")], "header");
        check(&table, "/z", &[("x-canary", "no")], "exact last");
        check(&table, "http://API.h2.example:8443/q", &[], "suffix");
        check(&table, "http://h2.example/q", &[], "");
        check(&table, "/q", &[("host", "ONE.example:80")], "host");
        check(&table, "/q", &[("host", "[::1]:80")], "");
    }

    #[test]
    fn another_spelling_of_a_path_takes_the_same_route() {
        let table = RouteTable::compile(&settings(vec![
            route("guarded", Some("/admin/*")),
            route("encoded", Some("/a%7Eb//c")),
            route("rest", Some("/*")),
        ]));
        let table = table.expect("in order");
        for path in ["/admin/x", "/%61dmin/x", "//admin/x", "/admin//x", "/adm%69n/%78"] {
            check(&table, path, &[], "guarded");
        }
        for path in ["/a~b/c", "/a%7eb/c", "/a%7Eb//c"] {
            check(&table, path, &[], "encoded");
        }
        check(&table, "/admin%2Fx", &[], "rest");
    }

    #[test]
    fn a_mistake_names_its_route() {
        let unknown = settings::Route { backend: "c".into(), ..route("r", None) };
        let no_call = settings::Route { topic: Some("a/#".to_owned()), ..route("r", None) };
        let filter = settings::Route {
            topic: Some("a/#/b".to_owned()),
            call: Some("/x".to_owned()),
            ..route("r", None)
        };
        let header = settings::Route { header: Some(("X Y".to_owned(), "1".to_owned())), ..route("r", None) };
        for (mistake, expected) in [
            (unknown, "route `r`: there is no backend `c`"),
            (no_call, "route `r`: a topic route to an HTTP or gRPC backend needs `call`"),
            (filter, "route `r`: topic filter: `#` must stand alone in the last level"),
            (header, "route `r`: `header` wants a lower-case HTTP header name"),
        ] {
            let error = RouteTable::compile(&settings(vec![mistake])).expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_reload_keeps_the_backends_that_did_not_change() {
        let before = settings(vec![route("r", None)]);
        let table = RouteTable::compile(&before).expect("in order");
        let kept = table.recompile(&before).expect("in order");
        let moved = Settings { backends: vec![backend("b", "localhost:2")], ..before };
        let moved = table.recompile(&moved).expect("in order");
        let same = |other: &RouteTable| Arc::ptr_eq(&table.backends["b"], &other.backends["b"]);
        assert!(same(&kept) && !same(&moved));
    }
}
