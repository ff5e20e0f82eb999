//! The proxy: one short method per phase of Pingora, nothing else.
//!
//! Owns: the order of things on the wire. Must not know: how anything is decided, or how a page looks.
//!
//! A request is read ([`facts`]), asked about (the gate), and then either answered ([`own`], `answer`) or forwarded
//! ([`upstream`]).

pub mod accounts;
mod answer;
pub mod attempt;
pub mod awaited;
pub mod balance;
mod body;
pub mod context;
mod edit;
mod exchange;
pub mod facts;
mod failure;
mod heads;
mod health;
mod https;
pub mod own;
mod patience;
mod peer;
mod reach;
mod resolver;
mod response;
mod revocable;
mod streams;
mod tunnel;
pub mod upstream;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Response, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use tokio::runtime::Handle;

use self::accounts::{Accounts, Told};
use self::attempt::{Attempts, ServerError};
use self::awaited::Awaited;
use self::balance::Pools;
use self::body::{Afterwards, Meter, TooLong};
use self::context::{Admitted, Answered, Context, NotAdmitted, Stage, UnderWay};
use self::edit::edit;
use self::facts::{Peer, REQUEST_ID, Reading, RequestIds, Tls};
use self::failure::{kind_of, reason_of, status_of};
use self::heads::{with_request_fields, with_response_fields};
use self::patience::{Patience, Stalled, be_patient};
use self::peer::Company;
use self::response::{MAX_INTERIM, Nonsense, has_no_body, keep_private, settle_framing, strip_hop_by_hop};
use self::revocable::revocable;
use self::upstream::{Changes, Credentials, dress};
use crate::assertion::Occasion;
use crate::clock::Clock;
use crate::facts::shape;
use crate::gate::{By, Pass, Verdict, Who};
use crate::listener::{Conversation, here};
use crate::open::Open;
use crate::pages::{self, Asked, Services, refusal, render};
use crate::route::rewrite::{Prefix, Unfit};
use crate::snapshot::Current;
use crate::telemetry::Telemetry;
use crate::telemetry::audit::Event;
use crate::telemetry::labels::Decision;

/// How long a client that is still sending may go on to, once it has its answer.
const LINGER: Duration = Duration::from_secs(2);

/// The proxy.
pub struct Proxy {
    /// The configuration in force.
    pub current: Current,
    /// What decides and what answers.
    pub services: Services,
    /// Our own pages.
    pub router: Router,
    /// Where our own pages run.
    pub runtime: Handle,
    /// Tells the time, once per request.
    pub clock: Clock,
    /// Names requests.
    pub ids: RequestIds,
    /// Knows where apps are and which of them are well.
    pub pools: Pools,
    /// Counts and records.
    pub telemetry: Telemetry,
    /// What is decided on again while it is under way.
    pub open: Open,
    /// Where each request is told of in the end.
    pub accounts: Arc<Accounts>,
    /// How many requests are under way: what a shutdown waits for.
    pub under_way: Arc<AtomicUsize>,
}

impl Proxy {
    /// Answers a request ourselves.
    async fn answer(
        &self,
        session: &mut Session,
        context: &mut Context,
        answered: Answered,
        answer: Response<Bytes>,
    ) -> Result<bool> {
        context.stage = Stage::Answered(Box::new(answered));
        own::write(session, answer, Afterwards::GoOn).await?;
        Ok(true)
    }

    /// Gets what the app will be told and admits the request, or answers it.
    async fn admit(
        &self,
        session: &mut Session,
        context: &mut Context,
        reading: Reading,
        pass: Pass,
    ) -> Result<bool> {
        let snapshot = context.snapshot.clone();
        let route = pass.route().clone();
        let rewritten = match route.rewrite.apply(&reading.target, route.allow_in_path) {
            Ok(rewritten) => rewritten,
            Err(unfit) => return self.unfit(session, context, reading, &pass, unfit).await,
        };
        let outgoing = match pass.who() {
            None => None,
            // Nobody is told of whom.
            _ if route.destination.app().is_none() => None,
            Some(Who { session: live, known }) => {
                let audience = snapshot.audience(pass.route(), &reading.arrival.host);
                let occasion = Occasion {
                    route: pass.route(),
                    audience: &audience,
                    known,
                    session: &live.key,
                    session_ends_at: live.begun_at().plus(snapshot.gate.session.lifetime),
                };
                let now = reading.arrival.now;
                match self.services.assertions.outgoing(&live.outgoing, &snapshot.assertion, &occasion, now) {
                    Ok(outgoing) => Some(outgoing),
                    Err(error) => {
                        tracing::error!(request_id = &*reading.arrival.request_id, %error, "no assertion, so no request");
                        let page = render::internal(
                            &pages::common(&snapshot, &reading.arrival),
                            request_shape(session),
                        );
                        let mut answered = Answered::of(reading.arrival, Decision::Error);
                        answered.route = Some(pass.route().name.clone());
                        return self.answer(session, context, answered, page).await;
                    }
                }
            }
        };
        // Of a preflight the app gets nothing but its head.
        let limit = if pass.by() == By::Preflight { Some(0) } else { route.body_limit };
        context.body = Meter::new(limit);
        let too_long = context.body.announced(&session.req_header().headers).is_err();
        let (kind, line) = (streams::kind_of_request(session.req_header()), &context.conversation.line);
        context.open = self.open.enter(&pass, &reading.arrival, &session.req_header().method, kind, line);
        let awaited = Awaited::by(&session.req_header().headers);
        // Before every attempt copies it.
        with_request_fields(session.req_header_mut(), |_| ());
        context.stage = Stage::Admitted(Box::new(Admitted { reading, pass, outgoing, awaited, rewritten }));
        if too_long {
            let page = self.too_large(session, context);
            own::write(session, page, Afterwards::GoOn).await?;
            return Ok(true);
        }
        if route.destination.app().is_none() {
            let admitted = context.stage.admitted().map_err(closed)?;
            answer::write(session, &snapshot, admitted, &context.conversation, &self.telemetry).await?;
            return Ok(true);
        }
        if session.is_upgrade_req() {
            // A WebSocket that is silent for a minute is not a client that stalls.
            session.set_read_timeout(None);
        }
        Ok(false)
    }

    /// Refuses a request whose path became one that no app is sent.
    async fn unfit(
        &self,
        session: &mut Session,
        context: &mut Context,
        reading: Reading,
        pass: &Pass,
        unfit: Unfit,
    ) -> Result<bool> {
        let (arrival, route) = (reading.arrival, &*pass.route().name);
        tracing::warn!(request_id = &*arrival.request_id, route, "a path was not forwarded: {unfit}");
        let common = pages::common(&context.snapshot, &arrival);
        let page = render::bad_request(&common, &unfit.0.to_string(), request_shape(session));
        let answered = Answered {
            route: Some(route.into()),
            reason: Some(unfit.to_string().into()),
            account: pass.who().map(|who| who.session.account.id()),
            ..Answered::of(arrival, Decision::BadRequest)
        };
        self.answer(session, context, answered, page).await
    }

    /// The answer to a body that is longer than the route takes.
    fn too_large(&self, session: &Session, context: &Context) -> Response<Bytes> {
        match context.stage.arrival() {
            Some(arrival) => {
                render::too_large(&pages::common(&context.snapshot, arrival), request_shape(session))
            }
            None => Response::default(),
        }
    }

    async fn refuse(
        &self,
        session: &mut Session,
        context: &mut Context,
        reading: Reading,
        verdict: Verdict,
    ) -> Result<bool> {
        let header = session.req_header();
        let asked = Asked {
            arrival: reading.arrival,
            snapshot: context.snapshot.clone(),
            method: header.method.clone(),
            headers: header.headers.clone(),
        };
        let (decision, answer) = refusal::answer(&self.services, &asked, &verdict);
        let arrival = asked.arrival;
        let reason = verdict.reason(&self.services.gate.directory.names());
        let answered = match &verdict {
            Verdict::Deny(denied) => Answered::denied(arrival, denied, reason.clone().unwrap_or_default()),
            _ => Answered {
                route: verdict.route().map(|route| route.name.clone()),
                reason: match answer.status() {
                    StatusCode::TOO_MANY_REQUESTS => Some("too many sign-ins from its address".into()),
                    _ => reason.clone(),
                },
                ..Answered::of(arrival, decision)
            },
        };
        if let Verdict::Deny(denied) = &verdict {
            let event = Event::Denied {
                account: denied.who.session.account.id(),
                route: denied.route.name.to_string(),
                host: answered.arrival.host.to_string(),
                path: answered.arrival.path.to_string(),
                reason: reason.unwrap_or_default().into(),
                client: answered.arrival.client,
                request_id: answered.arrival.request_id.to_string(),
            };
            self.telemetry.audit.record(answered.arrival.now, &event);
        }
        self.answer(session, context, answered, answer).await
    }
}

/// An answer that is none: the app's fault.
fn nonsense(what: Nonsense) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, what.to_string()).into_up()
}

/// Lets a client that is still sending read its answer: closing on it would be a reset, which overtakes the answer.
async fn linger(session: &mut Session) {
    let rest = async { while let Ok(Some(_)) = session.as_downstream_mut().read_request_body().await {} };
    // Whoever takes longer has had the time to read.
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// What was answered, but for interim answers: after those the one that counts is still to come.
fn answered_with(session: &Session) -> Option<StatusCode> {
    let status = session.response_written()?.status;
    (status == StatusCode::SWITCHING_PROTOCOLS || !status.is_informational()).then_some(status)
}

/// What the client reads when its request failed on the way to the app or back; the log has the same with the cause.
fn page_of_failure(session: &Session, context: &mut Context, error: &Error, status: u16) -> Response<Bytes> {
    let kind = kind_of(error, context.attempts.is_answered());
    let kind = context.upstream_error.get_or_insert(kind).as_str();
    let arrival = context.stage.arrival().cloned();
    let route = context.stage.admitted().map(|admitted| admitted.pass.route().clone());
    let upstream = exchange::upstream_of(context);
    match (&arrival, &route) {
        (Some(arrival), Ok(route)) => {
            tracing::warn!(
                request_id = &*arrival.request_id,
                route = &*route.name,
                upstream = upstream.as_deref(),
                kind,
                "the upstream failed: {}",
                reason_of(error)
            );
            let common = pages::common(&context.snapshot, arrival);
            let (again, shape) = (arrival.link(), request_shape(session));
            match status {
                502 => render::app_down(&common, &route.name, &again, shape),
                503 => render::app_busy(&common, &route.name, &again, exchange::BUSY, shape),
                504 => render::app_slow(&common, &route.name, &again, shape),
                400 => render::bad_request(&common, "The request could not be read to its end.", shape),
                _ => render::internal(&common, shape),
            }
        }
        _ => {
            tracing::warn!(kind, "a request failed before it was understood: {}", reason_of(error));
            Response::builder().status(status).body(Bytes::new()).unwrap_or_default()
        }
    }
}

/// A stage that nothing may be forwarded from: the request ends here.
fn closed(error: NotAdmitted) -> Box<Error> {
    Error::because(ErrorType::InternalError, "fail closed", error)
}

/// The body is longer than the route takes: no fault of the app's.
fn too_long(error: TooLong) -> Box<Error> {
    Error::because(ErrorType::HTTPStatus(413), "the request's body", error).into_down()
}

fn is_too_long(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::HTTPStatus(413)) && error.esource() == &ErrorSource::Downstream
}

fn request_shape(session: &Session) -> crate::facts::Shape {
    let header = session.req_header();
    shape(&header.method, &header.headers)
}

fn peer_of(context: &Context) -> Peer {
    let ends = &context.conversation.ends;
    Peer { address: ends.client.ip(), tls: if ends.tls.is_some() { Tls::Yes } else { Tls::No } }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            started: Instant::now(),
            conversation: here().unwrap_or_else(Conversation::detached),
            snapshot: self.current.load_full(),
            stage: Stage::Arrived,
            gate: None,
            first_byte: None,
            body: Meter::default(),
            upstream_error: None,
            stalled: None,
            interim: 0,
            answered: false,
            open: None,
            untold: Some(self.accounts.clone()),
            begun: None,
            attempts: Attempts::default(),
            in_flight: self.telemetry.metrics.request_in_flight(),
            under_way: UnderWay::enter(&self.under_way),
        }
    }

    /// None: the compressor that Pingora installs by default would only cost.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        be_patient(session, &context.snapshot.edge.limits);
        if session.req_header().version < Version::HTTP_11 {
            // It knows no interim answers (RFC 9110 §15.2).
            session.set_ignore_info_resp(true);
        }
        let snapshot = context.snapshot.clone();
        context.conversation.head_is_read();
        let peer = peer_of(context);
        let now = self.clock.now();
        if session.req_header().headers.contains_key(TRANSFER_ENCODING) {
            // Parsers of chunks differ (ours takes any byte in an extension, and no digits for a size): if a proxy
            // before us sees another end of the body, what is behind it must be no request to us.
            session.set_keepalive(None);
        }
        let head = session.as_http1().map_or_else(Bytes::new, |wire| wire.get_headers_raw_bytes());
        let ends = context.conversation.ends.clone();
        let reading = facts::read(session.req_header(), &head, peer, &snapshot.edge, &self.ids, now);
        let reading = match reading.and_then(|reading| facts::rightly_directed(reading, &ends)) {
            Ok(reading) => reading,
            Err((unreadable, arrival)) => {
                let page = own::unreadable(session, &snapshot, &arrival, &unreadable);
                let mut answered = Answered::of(*arrival, Decision::BadRequest);
                answered.reason = Some(unreadable.to_string().into());
                context.stage = Stage::Answered(Box::new(answered));
                // Where its end is in doubt, so is the beginning of the next one.
                own::write(session, page, Afterwards::Doubt).await?;
                return Ok(true);
            }
        };
        if let Some((decision, answer)) =
            https::elsewhere(&ends.listen, &snapshot, &reading, session.req_header())
        {
            let answered = Answered::of(reading.arrival, decision);
            return self.answer(session, context, answered, answer).await;
        }
        if snapshot.edge.is_own(&reading.arrival.host, &reading.arrival.path)
            && snapshot.serves(&reading.arrival.host)
        {
            let answer = own::ask(session, &self.router, &self.runtime, &snapshot, &reading.arrival).await;
            let answered = Answered::of(reading.arrival, Decision::Own);
            return self.answer(session, context, answered, answer).await;
        }
        let header = session.req_header();
        let verdict = {
            let facts = reading.arrival.facts(&header.method, &header.headers);
            self.services.gate.check(&snapshot.gate, &facts, &reading.target).await
        };
        context.gate = Some(context.started.elapsed());
        match verdict {
            Verdict::Forward(pass) => self.admit(session, context, reading, pass).await,
            verdict => self.refuse(session, context, reading, verdict).await,
        }
    }

    async fn upstream_peer(&self, session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let admitted = context.stage.admitted().map_err(closed)?;
        let app = admitted.app().map_err(closed)?;
        let key = exchange::key(app.balance, admitted);
        let endpoint = context.attempts.next(&self.pools, app, key).await;
        let idempotent = session.req_header().method.is_idempotent();
        let company = if idempotent { Company::Shared } else { Company::Alone };
        match exchange::peer(endpoint, &app.timeouts, admitted.awaited, company) {
            Ok(peer) => Ok(Box::new(peer)),
            Err((fault, error)) => {
                context.upstream_error = Some(fault);
                Err(error)
            }
        }
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _: bool,
        _: &HttpPeer,
        _: RawFd,
        digest: Option<&Digest>,
        context: &mut Context,
    ) -> Result<()> {
        let admitted = context.stage.admitted().map_err(closed)?;
        let app = admitted.app().map_err(closed)?;
        exchange::watch(&mut context.attempts, &app.timeouts, admitted.awaited, session, digest)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        context: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        exchange::not_connected(context, error)
    }

    /// Pingora's own rule would repeat a request only on an old connection, and to the same app.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        context: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        exchange::broken(session, context, error, reused)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        context.body.begin();
        let admitted = context.stage.admitted().map_err(closed)?;
        if context.open.is_some() || !session.is_body_empty() {
            // Only now: Pingora has settled what this stream may do by what it was before.
            let patience = Patience::new(&context.snapshot.edge.limits, &session.req_header().headers);
            revocable(session.as_mut(), &context.conversation.line, patience);
        }
        let Admitted { reading, outgoing, pass, .. } = admitted;
        let changes = Changes {
            edits: &pass.route().request_headers,
            prefix: admitted.rewritten.as_ref().and(pass.route().rewrite.prefix()).map(Prefix::as_str),
            credentials: match pass.by() {
                By::Rule => Credentials::Pass,
                By::Preflight => Credentials::Withhold,
            },
        };
        let (edge, cookies) = (&context.snapshot.edge, &context.snapshot.gate.cookie);
        let told = outgoing.as_ref().map_or(&[][..], |outgoing| &outgoing.headers);
        with_request_fields(request, |fields| dress(fields, reading, edge, cookies, told, &changes))
            .map_err(|error| Error::because(ErrorType::InternalError, "a header could not be made", error))?;
        // Exactly what was decided on, or what the route makes of it, whatever was sent.
        request.set_raw_path(admitted.target().wire().as_bytes())?;
        let app = admitted.app().map_err(closed)?;
        exchange::close_afterwards(request, &app.timeouts)?;
        exchange::say_host(request, &app.host_header, &context.attempts)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Context,
    ) -> Result<()> {
        if let (Some(_), Some(open)) = (&body, &context.open) {
            open.heard();
        }
        if let Some(chunk) = body {
            if context.answered {
                // An app that answers without having read the body may take it for the next request on this
                // connection, one that no gate has seen. So the connection ends here; the client has its answer.
                return Err(Error::explain(
                    ErrorType::InternalError,
                    "an answer before the end of the request",
                ));
            }
            // What goes through a tunnel is no body.
            if !session.was_upgraded() {
                context.body.pass(chunk.len()).map_err(too_long)?;
            }
        }
        if end {
            context.attempts.asked();
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS && !session.is_upgrade_req() {
            // Pingora would relay it, and the client would take what follows for another protocol.
            return Err(nonsense(Nonsense::Protocol));
        }
        let client = session.req_header().version;
        settle_framing(response, client).map_err(nonsense)?;
        if client < Version::HTTP_11 && !response.headers.contains_key(CONTENT_LENGTH) {
            // Its end is that of the connection; Pingora would find out after it has promised to keep it.
            session.set_keepalive(None);
        }
        if let (Some(kind), Some(open)) = (streams::kind_of_answer(response), &context.open) {
            open.becomes(kind);
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            context.conversation.becomes_tunnel();
            context.begun = Some(response.status);
        }
        if context.first_byte.is_none() {
            let decided = context.gate.unwrap_or_default();
            context.first_byte = Some(context.started.elapsed().saturating_sub(decided));
        }
        if response.status.is_informational() {
            context.interim += 1;
            if context.interim > MAX_INTERIM {
                return Err(nonsense(Nonsense::Interim));
            }
            match response.status {
                StatusCode::SWITCHING_PROTOCOLS => context.attempts.answered(ServerError::No),
                _ => with_response_fields(response, |fields| {
                    strip_hop_by_hop(fields);
                    // On all others Pingora writes its own.
                    fields.remove(CONNECTION);
                }),
            }
            return Ok(());
        }
        let server_error = response.status.is_server_error();
        context.attempts.answered(if server_error { ServerError::Yes } else { ServerError::No });
        let admitted = context.stage.admitted().map_err(closed)?;
        with_response_fields(response, |fields| {
            strip_hop_by_hop(fields);
            edit(fields, &admitted.pass.route().response_headers);
            https::insist(&context.conversation.ends.listen, fields);
            if let Ok(id) = HeaderValue::from_str(&admitted.reading.arrival.request_id) {
                fields.insert(REQUEST_ID, id);
            }
            if admitted.pass.who().is_some() {
                keep_private(fields);
            }
        });
        context.begun = Some(response.status);
        context.answered = has_no_body(response, &session.req_header().method);
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        _: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        exchange::is_in_time(&context.attempts)?;
        Ok(None)
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        end: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        context.answered |= end;
        Ok(None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> FailToProxy {
        if let (Some(ending), Some(arrival)) = (context.conversation.line.ending(), context.stage.arrival()) {
            streams::say_goodbye(session, &pages::common(&context.snapshot, arrival), ending).await;
            return FailToProxy { error_code: 403, can_reuse_downstream: false };
        }
        let gone = matches!(
            error.etype(),
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed
        ) && error.esource() == &ErrorSource::Downstream;
        let status = status_of(error);
        context.stalled = Stalled::find(error);
        if gone || answered_with(session).is_some() {
            if error.esource() == &ErrorSource::Upstream {
                exchange::cut_short(context, error);
            }
            if !gone && session.as_http1().is_some() {
                // What was said already may still be on its way: without it this looks like no answer at all, and
                // some clients try again then.
                session.as_downstream_mut().shutdown().await;
                if context.answered {
                    linger(session).await;
                }
            }
            return FailToProxy { error_code: if gone { 499 } else { status }, can_reuse_downstream: false };
        }
        if is_too_long(error) {
            let page = self.too_large(session, context);
            let _ = own::write(session, page, Afterwards::Close).await;
            return FailToProxy { error_code: status, can_reuse_downstream: false };
        }
        if let (Some(_), Some(arrival)) = (context.stalled, context.stage.arrival()) {
            // The app is not to blame, and nobody need be warned: the access line says it.
            let common = pages::common(&context.snapshot, arrival);
            let page = render::request_timeout(&common, &arrival.link(), request_shape(session));
            let _ = own::write(session, page, Afterwards::Doubt).await;
            return FailToProxy { error_code: status, can_reuse_downstream: false };
        }
        let page = page_of_failure(session, context, error, status);
        // The client may be gone by now; then there is nobody to tell.
        let _ = own::write(session, page, Afterwards::Close).await;
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, context: &mut Context) {
        let status = answered_with(session).map_or(0, |status| status.as_u16());
        let total = context.started.elapsed();
        let header = session.req_header();
        let told = Told {
            method: header.method.as_str(),
            raw_path: header.raw_path(),
            status,
            bytes_in: session.body_bytes_read() as u64,
            bytes_out: session.body_bytes_sent() as u64,
        };
        context.untold = None;
        self.accounts.close(context, &told, total);
    }

    /// Pingora would print whole requests, cookies included.
    fn request_summary(&self, _: &Session, context: &Context) -> String {
        context
            .stage
            .arrival()
            .map_or_else(|| "a request".to_owned(), |arrival| format!("request {}", arrival.request_id))
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }
}
