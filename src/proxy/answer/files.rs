//! Files of a folder.
//!
//! Owns: which file a path names, that nothing outside the folder, nothing hidden and nothing but plain files is ever
//! opened, and when a person gets the fallback. Ranges, conditions and media types are `tower-http`'s, the confinement
//! to the folder is `cap-std`'s.
//! Must not know: who asks.
//!
//! Nothing here waits for the disk: every call that may is made on a thread for such calls.

use std::future::Future;
use std::io::{self, ErrorKind, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use http::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, LOCATION, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use pingora::http::RequestHeader;
use rustix::fs::OFlags;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tokio::task::spawn_blocking;
use tower_http::services::ServeDir;
use tower_http::services::fs::{Backend, File, Metadata};

use super::{Body, Outcome, whole};
use crate::facts::{Shape, shape};
use crate::pages::{self, render};
use crate::proxy::context::Admitted;
use crate::route::destination::files::{Files, is_hidden};
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;

/// How much of a file is read at once, in bytes.
const PIECE: usize = 128 * 1024;

/// What of a request decides what of a file is sent.
const HEARD: [HeaderName; 6] =
    [ACCEPT_ENCODING, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE];

/// Answers a request with a file.
pub(super) async fn serve(
    files: &Files,
    request: &RequestHeader,
    snapshot: &Snapshot,
    admitted: &Admitted,
    telemetry: &Telemetry,
) -> Outcome {
    let arrival = &admitted.reading.arrival;
    let common = pages::common(snapshot, arrival);
    let asked_as = shape(&request.method, &request.headers);
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Outcome::Page(render::method_not_allowed(&common, &["GET", "HEAD"], asked_as));
    }
    let below = Below { root: files.root.as_path().into() };
    let path = &*admitted.target().path;
    let named = match path.ends_with('/') {
        true => format!("{path}{}", files.index),
        false => path.to_owned(),
    };
    let mut found = below.answer(&named, &request.method, &request.headers, files).await;
    if !path.ends_with('/') && found.as_ref().is_ok_and(is_folder) {
        return Outcome::Answer(to_the_folder(&arrival.path, arrival.query.as_deref()));
    }
    // A script or an image that is missing must not turn into a page.
    if let (true, Shape::Navigation, Some(fallback)) = (is_missing(&found), asked_as, &files.fallback) {
        found = below.answer(&format!("/{fallback}"), &request.method, &request.headers, files).await;
    }
    match found {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            telemetry.warn_limited("files", arrival.now, &error);
            Outcome::Page(render::no_route(&common, asked_as))
        }
        found if is_missing(&found) => Outcome::Page(render::no_route(&common, asked_as)),
        Ok(answer) => Outcome::Answer(finished(answer)),
        Err(error) => {
            tracing::error!(request_id = &*arrival.request_id, %error, "a file could not be served");
            Outcome::Page(render::internal(&common, asked_as))
        }
    }
}

fn is_missing(found: &io::Result<Response<Body>>) -> bool {
    match found {
        Ok(answer) => answer.status() == StatusCode::NOT_FOUND || is_folder(answer),
        Err(error) => is_absence(error),
    }
}

/// Whether `ServeDir` would send the browser to the same path with a slash.
fn is_folder(answer: &Response<Body>) -> bool {
    answer.status() == StatusCode::TEMPORARY_REDIRECT
}

/// Whether what went wrong is that there is no such file for anybody. What leads out of the folder is reported as a
/// lack of permission.
fn is_absence(error: &io::Error) -> bool {
    let in_a_circle = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    in_a_circle
        || matches!(
            error.kind(),
            ErrorKind::NotFound
                | ErrorKind::PermissionDenied
                | ErrorKind::NotADirectory
                | ErrorKind::InvalidFilename
                | ErrorKind::InvalidInput
        )
}

/// Relative links on a folder's page need its slash. Built on the path as it was asked for, whatever it was rewritten to.
fn to_the_folder(path: &str, query: Option<&str>) -> Response<Body> {
    let location = match query {
        Some(query) => format!("{path}/?{query}"),
        None => format!("{path}/"),
    };
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    if let Ok(location) = HeaderValue::from_str(&location) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

fn finished(mut answer: Response<Body>) -> Response<Body> {
    if answer.status().is_client_error() {
        // A condition that does not hold, a range that is not there: the status says it all.
        *answer.body_mut() = whole(Bytes::new());
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    }
    let headers = answer.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A browser that is told nothing guesses, and old ones guess UTF-7.
    let bare = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/") && !kind.as_bytes().contains(&b';');
    if let Some(kind) = headers.get(CONTENT_TYPE).filter(|kind| bare(kind))
        && let Ok(kind) = HeaderValue::from_bytes(&[kind.as_bytes(), b"; charset=utf-8"].concat())
    {
        headers.insert(CONTENT_TYPE, kind);
    }
    answer
}

/// The files below one folder.
#[derive(Clone, Debug)]
struct Below {
    root: Arc<Path>,
}

impl Below {
    /// The answer to a request for `path`, which begins with a slash and is canonical.
    async fn answer(
        &self,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
        files: &Files,
    ) -> io::Result<Response<Body>> {
        let mut heard = heard(method, headers);
        let answer = self.ask(path, method, &heard, files).await?;
        // A range of a file that is another one by now would be glued to the old one's (RFC 9110 §13.1.5).
        if let Some(condition) = headers.get(IF_RANGE)
            && heard.contains_key(RANGE)
            && !is_unchanged(condition, answer.headers())
        {
            heard.remove(RANGE);
            return self.ask(path, method, &heard, files).await;
        }
        Ok(answer)
    }

    async fn ask(
        &self,
        path: &str,
        method: &Method,
        heard: &HeaderMap,
        files: &Files,
    ) -> io::Result<Response<Body>> {
        let mut service = ServeDir::with_backend("", self.clone())
            .ignore_multi_range_requests(true)
            .with_buf_chunk_size(PIECE);
        if files.precompressed {
            service = service.precompressed_br().precompressed_gzip().precompressed_zstd();
        }
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.parse().map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        *request.headers_mut() = heard.clone();
        let answer = service.try_call(request).await?;
        Ok(answer.map(|body| body.boxed_unsync()))
    }

    /// Runs on a thread that may wait for the disk.
    async fn with_root<T: Send + 'static>(
        self,
        path: PathBuf,
        look: impl FnOnce(&Dir, &Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if is_hidden(&path) {
            return Err(ErrorKind::NotFound.into());
        }
        let looked = spawn_blocking(move || {
            // Opened each time: the folder may be a link that is set to another release.
            let root = Dir::open_ambient_dir(&self.root, ambient_authority())?;
            look(&root, if path.as_os_str().is_empty() { Path::new(".") } else { &path })
        });
        looked.await.map_err(io::Error::other)?
    }
}

/// What of a request's headers concerns files. Repeated ones are left out: two readings of one condition are none.
fn heard(method: &Method, headers: &HeaderMap) -> HeaderMap {
    let mut heard = HeaderMap::new();
    for name in HEARD {
        let mut values = headers.get_all(&name).iter();
        let (Some(value), None) = (values.next(), values.next()) else { continue };
        // Ranges are defined for GET, and of bytes (RFC 9110 §14.2); another unit is as if nothing were asked.
        let is_foreign =
            name == RANGE && !(*method == Method::GET && value.as_bytes().starts_with(b"bytes="));
        if !is_foreign {
            heard.insert(name, value.clone());
        }
    }
    heard
}

/// Whether `If-Range` names the very file that was found.
fn is_unchanged(condition: &HeaderValue, found: &HeaderMap) -> bool {
    match condition.as_bytes().first() {
        Some(b'"') => found.get(ETAG) == Some(condition),
        Some(b'W') => false,
        // The exact date (RFC 9110 §13.1.5).
        _ => found.get(LAST_MODIFIED) == Some(condition),
    }
}

/// What is known of a file.
#[derive(Clone, Debug)]
struct Known {
    is_dir: bool,
    length: u64,
    modified: Option<SystemTime>,
}

impl Known {
    /// Of a file or a folder; nothing else is there for anybody: opening a pipe waits, opening a device may do things.
    fn of(metadata: &cap_std::fs::Metadata) -> io::Result<Known> {
        if !metadata.is_file() && !metadata.is_dir() {
            return Err(ErrorKind::NotFound.into());
        }
        let modified = metadata.modified().ok().map(cap_std::time::SystemTime::into_std);
        Ok(Known { is_dir: metadata.is_dir(), length: metadata.len(), modified })
    }
}

impl Metadata for Known {
    fn is_dir(&self) -> bool {
        self.is_dir
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.modified.ok_or_else(|| ErrorKind::Unsupported.into())
    }

    fn len(&self) -> u64 {
        self.length
    }
}

/// A plain file, open.
#[derive(Debug)]
struct Opened {
    file: tokio::fs::File,
    known: Known,
}

type Looking<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

impl Backend for Below {
    type File = Opened;
    type Metadata = Known;
    type OpenFuture = Looking<'static, Opened>;
    type MetadataFuture = Looking<'static, Known>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        Box::pin(self.clone().with_root(path, |root, path| {
            if !root.metadata(path)?.is_file() {
                return Err(ErrorKind::NotFound.into());
            }
            let mut options = OpenOptions::new();
            // Should a pipe stand there by now, it is not waited for.
            options.read(true).custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default());
            let file = root.open_with(path, &options)?;
            let known = Known::of(&file.metadata()?)?;
            if known.is_dir {
                return Err(ErrorKind::NotFound.into());
            }
            Ok(Opened { file: tokio::fs::File::from_std(file.into_std()), known })
        }))
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        Box::pin(self.clone().with_root(path, |root, path| Known::of(&root.metadata(path)?)))
    }
}

impl File for Opened {
    type Metadata = Known;
    type MetadataFuture<'a> = Looking<'a, Known>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        let known = self.known.clone();
        Box::pin(async move { Ok(known) })
    }
}

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(cx, buf)
    }
}

impl AsyncSeek for Opened {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(cx)
    }
}
