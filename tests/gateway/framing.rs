//! Where requests begin and end, and which path they are for: what the client gets, and what the app sees.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Blunt, Browser, Checked, Config, Request, Setup, Wire, eventually};

/// A host that is served, as every raw request here names it.
const HOST: &str = "wiki.example.com";

/// The status of every answer in `bytes`, in order.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}

/// Sends `bytes` and reads until the gateway closes. Where it waits for more, it is left after a moment.
async fn said(setup: &Setup, bytes: &[u8]) -> Checked<Vec<u8>> {
    Ok(said_and_closed(setup, bytes).await?.0)
}

/// The same, and whether the gateway closed the connection.
async fn said_and_closed(setup: &Setup, bytes: &[u8]) -> Checked<(Vec<u8>, bool)> {
    let mut stream = TcpStream::connect(setup.gateway.address()).await?;
    // The gateway may close before all of it is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    loop {
        match timeout(Duration::from_secs(3), stream.read_buf(&mut answer)).await {
            Ok(Ok(1..)) => {}
            // A reset is an end, too.
            Ok(_) => return Ok((answer, true)),
            Err(_) => return Ok((answer, false)),
        }
    }
}

fn targets(setup: &Setup) -> Vec<String> {
    setup
        .upstream
        .received()
        .into_iter()
        .map(|request| format!("{} {}", request.method, request.target))
        .collect()
}

/// A POST to a public route, with this framing and body, and then the request that must not be hidden in it.
fn smuggler(framing: &str, body: &str) -> Vec<u8> {
    format!("POST /public/outer HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n{body}").into_bytes()
}

/// threats 10, 13 and 14: every way to say twice, or wrongly, how long a request is.
#[tokio::test]
async fn a_request_whose_end_is_in_doubt_is_refused_and_its_connection_closed() -> Checked {
    let setup = Setup::new().await?;
    let inner = format!("GET /public/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let zero = format!("0\r\n\r\n{inner}");
    let chunks = format!("5\r\nhello\r\n0\r\n\r\n{inner}");
    let rows: &[(&str, &str, &str)] = &[
        ("CL.TE", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &zero),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &chunks),
        ("TE.TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", &zero),
        ("TE twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &zero),
        ("TE joined", "Transfer-Encoding: chunked, chunked\r\n", &zero),
        ("TE gzip", "Transfer-Encoding: gzip, chunked\r\n", &zero),
        ("TE last", "Transfer-Encoding: chunked, identity\r\n", &zero),
        ("TE unknown", "Transfer-Encoding: xchunked\r\n", &zero),
        ("TE quoted", "Transfer-Encoding: \"chunked\"\r\n", &zero),
        ("TE tab", "Transfer-Encoding:\x0bchunked\r\n", &zero),
        ("TE parameter", "Transfer-Encoding: chunked;x=1\r\n", &zero),
        ("TE space before the colon", "Transfer-Encoding : chunked\r\n", &zero),
        ("TE folded", "Transfer-Encoding:\r\n chunked\r\n", &zero),
        ("TE bare CR", "X: y\rTransfer-Encoding: chunked\r\n", &zero),
        ("TE empty and CL", "Transfer-Encoding:\r\nContent-Length: 5\r\n", &chunks),
        ("CL twice", "Content-Length: 5\r\nContent-Length: 5\r\n", &inner),
        ("CL two", "Content-Length: 5\r\nContent-Length: 6\r\n", &inner),
        ("CL joined", "Content-Length: 5, 5\r\n", &inner),
        ("CL signed", "Content-Length: +5\r\n", &inner),
        ("CL negative", "Content-Length: -5\r\n", &inner),
        ("CL hexadecimal", "Content-Length: 0x5\r\n", &inner),
        ("CL with a space", "Content-Length: 5 5\r\n", &inner),
        ("CL empty", "Content-Length:\r\n", &inner),
        ("CL too big", "Content-Length: 18446744073709551621\r\n", &inner),
        ("CL very big", "Content-Length: 9223372036854775808\r\n", &inner),
        ("CL space before the colon", "Content-Length : 5\r\n", &inner),
        ("no name", ": x\r\n", &inner),
        ("no colon", "Nonsense\r\n", &inner),
        ("space in a name", "X Y: z\r\n", &inner),
        ("NUL in a name", "X\0Y: z\r\n", &inner),
        ("NUL in a value", "X: y\0z\r\n", &inner),
        ("bare CR in a value", "X: y\rz\r\n", &inner),
        ("folded", "X: y\r\n z\r\n", &inner),
        ("folded first", " X: y\r\n", &inner),
        ("bare LF", "X: y\n", &inner),
        ("bare LF before a coding", "X: y\nTransfer-Encoding: chunked\r\n", &zero),
        ("bare LF before a length", "X: y\nContent-Length: 5\r\n", &inner),
        ("bare LF after a length", "Content-Length: 5\n", &inner),
        ("bare LF twice, an end for some", "X: y\n\nGET /public/smuggled HTTP/1.1\r\nX: y\r\n", &inner),
        ("vertical tab in a name", "Transfer-Encoding\x0b: chunked\r\n", &zero),
        ("no break space in a name", "Transfer-Encoding\u{a0}: chunked\r\n", &zero),
        ("tab before the colon", "Transfer-Encoding\t: chunked\r\n", &zero),
        ("CL with a comma", "Content-Length: 5,\r\n", &inner),
        ("CL decimal", "Content-Length: 5.0\r\n", &inner),
        ("CL exponent", "Content-Length: 5e0\r\n", &inner),
        ("CL in other digits", "Content-Length: \u{665}\r\n", &inner),
        ("CL folded", "Content-Length:\r\n 5\r\n", &inner),
        ("TE comma", "Transfer-Encoding: ,chunked\r\n", &zero),
        ("TE with a control", "Transfer-Encoding: chunked\x0c\r\n", &zero),
    ];
    for (what, framing, body) in rows {
        let (bytes, closed) = said_and_closed(&setup, &smuggler(framing, body)).await?;
        assert_eq!(statuses(&bytes), [400], "{what}: {}", String::from_utf8_lossy(&bytes));
        assert!(closed, "{what}");
    }
    // Closed for the doubt, and not because something was left over.
    for framing in [
        "Content-Length: 0\r\nContent-Length: 0\r\n",
        "Content-Length: 0, 0\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ] {
        let body = if framing.starts_with('T') { "0\r\n\r\n" } else { "" };
        let (bytes, closed) = said_and_closed(&setup, &smuggler(framing, body)).await?;
        assert_eq!((statuses(&bytes), closed), (vec![400], true), "{framing}");
    }
    assert_eq!(targets(&setup), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_chunk_that_lies_about_its_size_ends_the_connection() -> Checked {
    let setup = Setup::new().await?;
    let inner = format!("GET /public/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for (what, body) in [
        ("overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("more than any memory", "ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("negative", "-5\r\nhello\r\n0\r\n\r\n"),
        ("signed", "+5\r\nhello\r\n0\r\n\r\n"),
        ("with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("no digits", "zz\r\nhello\r\n0\r\n\r\n"),
        ("a size that is too small", "2\r\nhello\r\n0\r\n\r\n"),
        ("no end of the chunk", "5\r\nhelloX0\r\n\r\n"),
        ("bare LF behind the size", "5\nhello\r\n0\r\n\r\n"),
        ("bare LF behind the chunk", "5\r\nhello\n0\r\n\r\n"),
        ("bare LF everywhere", "5\nhello\n0\n\n"),
        ("bare LF behind the last size", "5\r\nhello\r\n0\n\r\n"),
        ("bare LF at the end", "5\r\nhello\r\n0\r\n\n"),
        ("bare LF in the trailers", "5\r\nhello\r\n0\r\nX: y\n\n"),
        ("bare CR behind the size", "5\rhello\r\n0\r\n\r\n"),
        ("bare CR behind the chunk", "5\r\nhello\r0\r\n\r\n"),
        ("a blank before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a blank in the size", "0 5\r\nhello\r\n0\r\n\r\n"),
        ("a comma in the size", "5,5\r\nhello\r\n0\r\n\r\n"),
        ("an underscore in the size", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("a quoted size", "\"5\"\r\nhello\r\n0\r\n\r\n"),
        ("NUL behind the size", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("zeros without end", "00000000000000000\r\n\r\n"),
        ("negative zero", "-0\r\n\r\n"),
    ] {
        let bytes =
            said(&setup, &smuggler("Transfer-Encoding: chunked\r\n", &format!("{body}{inner}"))).await?;
        let all = statuses(&bytes);
        assert!(all.len() <= 1 && all.iter().all(|status| *status >= 400), "{what}: {all:?}");
    }
    let long = "x".repeat(128 * 1024);
    let many = "X: y\r\n".repeat(12 * 1024);
    for (what, body) in [
        ("an extension without end", format!("5;{long}\r\nhello\r\n0\r\n\r\n")),
        ("trailers without end", format!("5\r\nhello\r\n0\r\n{many}\r\n")),
    ] {
        let bytes = said(&setup, &smuggler("Transfer-Encoding: chunked\r\n", &(body + &inner))).await?;
        let all = statuses(&bytes);
        assert!(all.len() <= 1 && all.iter().all(|status| *status >= 400), "{what}: {all:?}");
    }
    assert_eq!(targets(&setup), [""; 0], "the app got a whole request");
    Ok(())
}

/// threats 13: where parsers of chunks differ, the connection ends with the body, so that nothing behind it is a
/// request to anybody.
#[tokio::test]
async fn behind_a_body_in_chunks_there_is_nothing() -> Checked {
    let setup = Setup::new().await?;
    let inner = format!("GET /public/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for (what, body, arrives) in [
        ("plain", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        // An empty line is a size of nothing to the parser.
        ("no size", "\r\n\r\n", ""),
        ("an empty line too much", "5\r\nhello\r\n\r\n0\r\n\r\n", "hello"),
        ("an extension alone", ";x\r\n\r\n", ""),
        // To some a line ends here, and the next chunk begins.
        ("bare LF in an extension", "5;\nxx\r\nhello\r\n0\r\n\r\n", "hello"),
        ("bare CR in an extension", "5;x=\"\u{b}\"\r\nhello\r\n0\r\n\r\n", "hello"),
        ("a size in an extension", "5;\n0\r\nhello\r\n0\r\n\r\n", "hello"),
        ("blanks behind the size", "5 \t \r\nhello\r\n0\r\n\r\n", "hello"),
        // A last line that was forgotten: what follows are trailers, which nobody gets.
        ("no end", "5\r\nhello\r\n0\r\n", "hello"),
    ] {
        let before = setup.upstream.received().len();
        let bytes = smuggler("Transfer-Encoding: chunked\r\n", &format!("{body}{inner}"));
        let (bytes, closed) = said_and_closed(&setup, &bytes).await?;
        assert_eq!((statuses(&bytes), closed), (vec![200], true), "{what}");
        let received = setup.upstream.received();
        let seen: Vec<_> = received[before..].iter().map(|request| &*request.target).collect();
        assert_eq!(seen, ["/public/outer"], "{what}");
        assert_eq!(received[before].body, arrives.as_bytes(), "{what}");
        assert_eq!(received[before].all("transfer-encoding"), ["chunked"], "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_chunked_with_extensions_arrives_without_them() -> Checked {
    let setup = Setup::new().await?;
    for (what, body) in [
        ("extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n"),
        ("zeros", "0005\r\nhello\r\n000\r\n\r\n"),
        ("capital digits", "A\r\nhellohello\r\n0\r\n\r\n"),
        ("trailer", "5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n"),
    ] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&smuggler("Transfer-Encoding: chunked\r\n", body)).await?;
        let response = wire.response().await?;
        let echo = response.expect(200).map_err(|error| format!("{what}: {error}"))?.json()?;
        assert!(
            echo["body"].as_str().is_some_and(|body| body.trim_start_matches("hello").is_empty()),
            "{what}: {echo}"
        );
        let received = setup.upstream.received();
        let head = received.last().map(|request| String::from_utf8_lossy(&request.head).into_owned());
        let head = head.unwrap_or_default().to_ascii_lowercase();
        assert!(!head.contains("trailer"), "{what}: {head}");
    }
    Ok(())
}

#[tokio::test]
async fn a_request_names_one_host_plainly() -> Checked {
    let setup = Setup::new().await?;
    for (host, status) in [
        ("Host: wiki.example.com\r\n", 200),
        ("Host: WIKI.example.com.:80\r\n", 200),
        ("Host:wiki.example.com\r\n", 200),
        ("", 400),
        ("Host:\r\n", 400),
        ("Host: wiki.example.com\r\nHost: wiki.example.com\r\n", 400),
        ("Host: wiki.example.com\r\nHost: evil.example\r\n", 400),
        ("Host: wiki.example.com, evil.example\r\n", 400),
        ("Host: wiki.example.com evil.example\r\n", 400),
        ("Host: wiki.example.com/evil\r\n", 400),
        ("Host: wiki.example.com\\evil\r\n", 400),
        ("Host: wiki.example.com\tevil\r\n", 400),
        ("Host: wiki.example.com;evil\r\n", 400),
        ("Host: wiki.example.com?evil\r\n", 400),
        ("Host: wiki.example.com#evil\r\n", 400),
        ("Host: user@wiki.example.com\r\n", 400),
        ("Host: wiki.example.com:evil\r\n", 400),
        ("Host: wiki.example.com:0\r\n", 400),
        ("Host: wiki.example.com:99999\r\n", 400),
        ("Host: wiki..example.com\r\n", 400),
        ("Host: .\r\n", 400),
        ("Host: [::1\r\n", 400),
        ("Host: 0x7f.1\r\n", 400),
        ("Host: w\u{ed}ki.example.com\r\n", 400),
        ("Host: wiki.example.com%00\r\n", 400),
        ("Host: <script>\r\n", 400),
        ("Host: wiki%2eexample.com\r\n", 400),
        ("Host: wiki.example.com,\r\n", 400),
        ("Host: wiki.example.com:\r\n", 400),
        ("Host: wiki.example.com:80:80\r\n", 400),
        ("Host: wiki.example.com:+80\r\n", 400),
        ("Host: wiki.example.com:080\r\n", 400),
        ("Host: .wiki.example.com\r\n", 400),
        ("Host: http://wiki.example.com\r\n", 400),
        ("Host: wiki.example.com\0\r\n", 400),
        ("Host: wiki.example.com\x0b\r\n", 400),
        ("Host: wiki.example.com\rHost: evil.example\r\n", 400),
        ("Host: wiki.example.com\n", 400),
        ("Host: wiki.example.com\r\n .evil.example\r\n", 400),
        ("Host : wiki.example.com\r\n", 400),
        ("Host\t: wiki.example.com\r\n", 400),
        ("\tHost: wiki.example.com\r\n", 400),
        ("Host: [::1%25eth0]\r\n", 400),
        ("Host: wiki.example.com\r\nhost: wiki.example.com\r\n", 400),
        ("Host: wiki.example.com\r\nHost:\r\n", 400),
        ("Host:\r\nHost: wiki.example.com\r\n", 400),
    ] {
        let bytes =
            said(&setup, format!("GET /public/a HTTP/1.1\r\n{host}Connection: close\r\n\r\n").as_bytes())
                .await?;
        assert_eq!(statuses(&bytes), [status], "{host:?}: {}", String::from_utf8_lossy(&bytes));
        assert!(!String::from_utf8_lossy(&bytes).contains("<script>"), "{host:?}");
    }
    assert_eq!(setup.upstream.received().len(), 3);
    for request in setup.upstream.received() {
        assert_eq!(request.all("host").len(), 1);
        assert!(["wiki.example.com", "wiki.example.com:80"].contains(&request.all("host")[0]), "{request:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_request_line_has_one_form() -> Checked {
    let setup = Setup::new().await?;
    let long = "a".repeat(8 * 1024);
    for (line, status, seen) in [
        ("GET http://wiki.example.com/public/x HTTP/1.1", 200, Some("/public/x")),
        ("GET http://wiki.example.com/public/x?y HTTP/1.1", 200, Some("/public/x?y")),
        ("GET http://WIKI.example.com./public/x?y HTTP/1.1", 400, None),
        ("GET http://wiki.example.com/lobby/%2e%2e/public/x HTTP/1.1", 200, Some("/public/x")),
        ("GET http://wiki.example.com/public/../lobby HTTP/1.1", 401, None),
        ("GET http://wiki.example.com HTTP/1.1", 401, None),
        ("GET http://evil.example/public/x HTTP/1.1", 400, None),
        ("GET http://wiki.example.com:81/public/x HTTP/1.1", 400, None),
        ("GET http://wiki.example.com@evil.example/public/x HTTP/1.1", 400, None),
        ("GET http:///public/x HTTP/1.1", 400, None),
        ("GET http:/public/x HTTP/1.1", 400, None),
        ("GET ftp://wiki.example.com/public/x HTTP/1.1", 400, None),
        ("GET public HTTP/1.1", 400, None),
        ("GET ./public HTTP/1.1", 400, None),
        ("GET \\public HTTP/1.1", 400, None),
        ("GET x:/public HTTP/1.1", 400, None),
        ("GET foo:bar://wiki.example.com/public HTTP/1.1", 400, None),
        ("GET * HTTP/1.1", 400, None),
        ("GET ?x HTTP/1.1", 400, None),
        // A fragment is cut off before anything is decided, and so is nothing that anybody sees.
        ("GET #x HTTP/1.1", 401, None),
        ("GET /public/x#/../../deploy HTTP/1.1", 200, Some("/public/x")),
        ("OPTIONS * HTTP/1.1", 400, None),
        ("OPTIONS /public/x HTTP/1.1", 200, Some("/public/x")),
        ("TRACE /public/x HTTP/1.1", 405, None),
        ("TRACK /public/x HTTP/1.1", 405, None),
        ("CONNECT wiki.example.com:443 HTTP/1.1", 405, None),
        ("CONNECT /public/x HTTP/1.1", 405, None),
        ("GET /public/x HTTP/9.9", 400, None),
        ("GET /public/x http/1.1", 400, None),
        ("GET /public/x", 400, None),
        ("GET /public/x HTTP/2.0", 400, None),
        ("HTTP://wiki.example.com/public/x", 400, None),
        ("GET HTTP://wiki.example.com/public/x HTTP/1.1", 200, Some("/public/x")),
        ("GET http://wiki.example.com:80/public/x HTTP/1.1", 400, None),
        ("GET http://wiki.example.com?/public/x HTTP/1.1", 401, None),
        ("GET http://wiki.example.com\\@evil.example/public/x HTTP/1.1", 400, None),
        ("GET http://wiki.example.com#@evil.example/public/x HTTP/1.1", 401, None),
        ("GET http://wiki.example.com/public/..;/lobby HTTP/1.1", 400, None),
        ("GET http://wiki.example.com//public/x HTTP/1.1", 200, Some("/public/x")),
        ("GET http://wiki.example.com//evil.example/public HTTP/1.1", 401, None),
        ("GET //wiki.example.com/public/x HTTP/1.1", 401, None),
        ("GET wiki.example.com/public/x HTTP/1.1", 400, None),
        ("GET wiki.example.com:80 HTTP/1.1", 400, None),
        ("GET /public/x HTTP/1.1 HTTP/1.1", 400, None),
        ("GET /public/x /lobby HTTP/1.1", 200, Some("/public/x%20/lobby")),
        ("GET /public/x\tHTTP/1.1 HTTP/1.1", 400, None),
        ("GET /public/x HTTP/1.1\rX: y", 400, None),
        ("GET /public/x HTTP/1.1\n", 400, None),
        ("GET /public/\0x HTTP/1.1", 400, None),
        ("GET\0 /public/x HTTP/1.1", 400, None),
        ("GET\t/public/x HTTP/1.1", 400, None),
        (" GET /public/x HTTP/1.1", 400, None),
        ("GET /public/x HTTP/1.1 ", 400, None),
        ("GET /public/x HTTP/1.12", 400, None),
        ("GET /public/x HTTP/01.1", 400, None),
        ("GET /public/x HTTP/1", 400, None),
        ("GET /public/x HTTP/1.2", 400, None),
        ("GET /public/x HTTPS/1.1", 400, None),
        ("PRI * HTTP/2.0", 400, None),
        ("get /public/x HTTP/1.1", 200, Some("/public/x")),
        ("trace /public/x HTTP/1.1", 405, None),
        ("BREW /public/x HTTP/1.1", 200, Some("/public/x")),
        ("GET:/public/x HTTP/1.1", 400, None),
        ("G\u{e9}T /public/x HTTP/1.1", 400, None),
        ("\r\nGET /public/x HTTP/1.1", 200, Some("/public/x")),
        ("\nGET /public/x HTTP/1.1", 400, None),
        ("G(T /public/x HTTP/1.1", 400, None),
        ("GET  /public/x HTTP/1.1", 400, None),
        (&format!("GET /public/{long} HTTP/1.1"), 414, None),
    ] {
        let before = setup.upstream.received().len();
        let bytes =
            said(&setup, format!("{line}\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let all = statuses(&bytes);
        // What is not even HTTP may be answered with nothing.
        let fine = all == [status] || (all.is_empty() && status == 400);
        assert!(fine, "{line}: {all:?} {}", String::from_utf8_lossy(&bytes));
        let received = setup.upstream.received();
        let now: Vec<&str> = received[before..].iter().map(|request| request.target.as_str()).collect();
        assert_eq!(now, seen.into_iter().collect::<Vec<_>>(), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_even_be_parsed_is_refused_by_us_and_in_the_log() -> Checked {
    let setup = Setup::new().await?;
    for (what, sent, reason) in [
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(), "The request is not HTTP."),
        ("TLS", "\x16\x03\x01\0\x05\x01\0\0\x01\0\r\n\r\n".to_owned(), "The request is not HTTP."),
        (
            "a folded line",
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: y\r\n z\r\n\r\n"),
            "The request is not HTTP.",
        ),
        (
            "two lengths",
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            "",
        ),
        (
            "CONNECT",
            format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"),
            "This method is not for apps.",
        ),
    ] {
        let before = setup.gateway.access().len();
        let (bytes, closed) = said_and_closed(&setup, sent.as_bytes()).await?;
        let answer = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        assert!(closed && !answer.contains("ingora") && !answer.contains("\r\nserver:"), "{what}: {answer}");
        let status = if what == "CONNECT" { 405 } else { 400 };
        assert_eq!(statuses(&bytes), [status], "{what}");
        eventually("there is a line in the log", async || Ok(setup.gateway.access().len() > before)).await?;
        let line = &setup.gateway.access()[before];
        assert_eq!(
            (&line["status"], &line["decision"]),
            (&status.into(), &"bad_request".into()),
            "{what}: {line}"
        );
        assert_eq!(line["client"], "127.0.0.1", "{what}");
        assert!(line["reason"].as_str().is_some_and(|said| said.contains(reason)), "{what}: {line}");
    }
    let metrics = Browser::new().get(&setup.gateway.admin_url("/metrics")).await?.text();
    let counted = "teamgate_requests_total{decision=\"bad_request\",route=\"(none)\",status=\"4xx\"} 5";
    assert!(metrics.contains(counted), "{metrics}");
    // On a connection that had good requests before, too.
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(format!("GET /public/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await?;
    wire.response().await?.expect(200)?;
    wire.send(b"nonsense\r\n\r\n").await?;
    let rest = wire.rest().await?;
    assert_eq!(statuses(&rest), [400]);
    assert!(!String::from_utf8_lossy(&rest).contains("ingora"));
    Ok(())
}

#[tokio::test]
async fn old_protocols_are_understood_or_refused() -> Checked {
    let setup = Setup::new().await?;
    // 0.9 has no headers, so no host.
    let bytes = said(&setup, b"GET /public/x\r\n\r\n").await?;
    assert!(!String::from_utf8_lossy(&bytes).contains("200 OK"));
    // 1.0 without a host is nobody's; with one it is a request that closes its connection.
    let bytes = said(&setup, b"GET /public/x HTTP/1.0\r\n\r\n").await?;
    assert_eq!(statuses(&bytes), [400]);
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(format!("GET /public/x HTTP/1.0\r\nHost: {HOST}\r\n\r\n").as_bytes()).await?;
    let bytes = wire.rest().await?;
    assert_eq!(statuses(&bytes), [200]);
    // CVE-2026-2835: 1.0 knows no chunks.
    let chunks = format!(
        "POST /public/x HTTP/1.0\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /public/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
    );
    let bytes = said(&setup, chunks.as_bytes()).await?;
    assert_eq!(statuses(&bytes), [400]);
    assert_eq!(targets(&setup), ["GET /public/x"]);
    Ok(())
}

/// threats 2 and 10: CGI and WSGI read `Transfer_Encoding` as the real one.
#[tokio::test]
async fn a_name_that_looks_like_framing_to_an_app_does_not_reach_it() -> Checked {
    let setup = Setup::new().await?;
    let inner = format!("GET /public/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for name in [
        "Content_Length",
        "content.length",
        "Content!Length",
        "Transfer_Encoding",
        "TRANSFER_ENCODING",
        "Transfer.Encoding",
        "Transfer~Encoding",
        "Content_Type",
        "Content_Encoding",
        "X_Forwarded_For",
        "Proxy_Connection",
        "Keep_Alive",
        "HTTP2_Settings",
        "Proxy_Authorization",
    ] {
        let before = setup.upstream.received().len();
        let framing = format!("{name}: 5\r\nContent-Length: {}\r\nConnection: close\r\n", inner.len());
        let bytes = said(&setup, &smuggler(&framing, &inner)).await?;
        assert_eq!(statuses(&bytes), [200], "{name}");
        let received = setup.upstream.received();
        assert_eq!(received.len(), before + 1, "{name}");
        assert_eq!(received[before].body, inner.as_bytes(), "{name}");
        assert_eq!(received[before].all(name), [""; 0], "{name}");
        assert_eq!(received[before].all("content-length"), [inner.len().to_string()], "{name}");
    }
    Ok(())
}

/// threats 4 and 10: what the client has taken off may not be what says where the body ends.
#[tokio::test]
async fn a_body_keeps_its_length_whatever_is_nominated() -> Checked {
    let setup = Setup::new().await?;
    let inner = format!("GET /public/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let length = format!("Content-Length: {}\r\n", inner.len());
    let chunks = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    for nominated in [
        "Content-Length",
        "content-length, transfer-encoding",
        "Transfer-Encoding",
        "close, Content-Length",
        "keep-alive, CONTENT-LENGTH",
        "\tcontent-length\t,,",
        "Cookie, Content-Length, Connection",
        "Trailer, TE, Upgrade, Keep-Alive, Content-Length",
    ] {
        for (framing, body) in [(length.as_str(), &inner), ("Transfer-Encoding: chunked\r\n", &chunks)] {
            let before = setup.upstream.received().len();
            let framing = format!("{framing}Connection: {nominated}\r\n");
            let mut wire = Wire::connect(setup.gateway.address()).await?;
            wire.send(&smuggler(&framing, body)).await?;
            wire.response().await?.expect(200).map_err(|error| format!("{nominated}: {error}"))?;
            let received = setup.upstream.received();
            assert_eq!(received.len(), before + 1, "{nominated}");
            assert_eq!(received[before].target, "/public/outer", "{nominated}");
            assert_eq!(received[before].body, inner.as_bytes(), "{nominated}");
            let lengths = received[before].all("content-length").len();
            assert_eq!(lengths + received[before].all("transfer-encoding").len(), 1, "{nominated}");
        }
    }
    for nominated in [
        "Host",
        "close, hOSt",
        "\"Content-Length\"",
        "Content-Length;x",
        ":authority",
        "a b",
        "a,b,c,d,e,f,g,h,i,j,k",
    ] {
        let framing = format!("{length}Connection: {nominated}\r\n");
        let (bytes, closed) = said_and_closed(&setup, &smuggler(&framing, &inner)).await?;
        assert_eq!((statuses(&bytes), closed), (vec![400], true), "{nominated}");
    }
    assert!(!targets(&setup).iter().any(|target| target.contains("smuggled")));
    Ok(())
}

/// A body where none is expected is a body all the same.
#[tokio::test]
async fn a_body_belongs_to_its_request_whatever_the_method() -> Checked {
    let setup = Setup::new().await?;
    let inner = format!("GET /public/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let before = setup.upstream.received().len();
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        let head = format!(
            "{method} /public/outer HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n",
            inner.len()
        );
        wire.send(format!("{head}{inner}").as_bytes()).await?;
        wire.response_to(method).await?.expect(200).map_err(|error| format!("{method}: {error}"))?;
        let next = format!("GET /public/next HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        wire.send(next.as_bytes()).await?;
        assert_eq!(wire.response().await?.json()?["target"], "/public/next", "{method}");
        let received = setup.upstream.received();
        let seen: Vec<_> = received[before..].iter().map(|request| &*request.target).collect();
        assert_eq!(seen, ["/public/outer", "/public/next"], "{method}");
        assert_eq!(received[before].body, inner.as_bytes(), "{method}");
    }
    Ok(())
}

/// What is sent behind a request, before its answer is there, is no request: it is not read (RFC 9112 §9.3.2 lets
/// us close).
#[tokio::test]
async fn what_is_sent_behind_a_request_is_not_believed() -> Checked {
    let setup = Setup::new().await?;
    let inner = format!("GET /public/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for (what, framing, body) in [
        ("a request", "", inner.clone()),
        ("a request behind a body", "Content-Length: 5\r\n", format!("hello{inner}")),
        ("a request behind an empty body", "Content-Length: 0\r\n", inner.clone()),
        ("a body that nobody announced", "", "hello".to_owned()),
        ("an empty line", "", "\r\n".to_owned()),
        ("chunks that nobody announced", "", format!("0\r\n\r\n{inner}")),
        ("the preface of HTTP/2", "", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
    ] {
        let before = setup.upstream.received().len();
        let (bytes, closed) = said_and_closed(&setup, &smuggler(framing, &body)).await?;
        assert_eq!((statuses(&bytes), closed), (vec![200], true), "{what}");
        let seen = targets(&setup);
        assert_eq!(seen[before..], ["POST /public/outer"], "{what}");
    }
    Ok(())
}

/// threats 11: an app that answers before it has the body takes the body for the next request, one that no gate has
/// seen. What comes after the answer never reaches it.
#[tokio::test]
async fn a_body_that_an_app_did_not_wait_for_is_no_request_to_it_or_to_us() -> Checked {
    let app = Blunt::start().await?;
    let setup = Setup::with(Config::default().route(&app.route("app"))).await?;
    let inner = format!("GET /app/smuggled HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-User: root\r\n\r\n");
    let length = format!("Content-Length: {}\r\n", inner.len());
    let chunks = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    for early in [
        "HTTP/1.1 403 Early\r\nContent-Length: 5\r\n\r\nearly",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ] {
        for (framing, body) in [
            (length.clone(), &inner),
            (format!("Expect: 100-continue\r\n{length}"), &inner),
            ("Transfer-Encoding: chunked\r\n".to_owned(), &chunks),
        ] {
            let what = format!("{early} {framing}");
            app.forget();
            app.answers(early);
            let mut wire = Wire::connect(setup.gateway.address()).await?;
            let head = format!("POST /app/outer HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n");
            wire.send(head.as_bytes()).await?;
            let response = wire.response().await.map_err(|error| format!("{what}: {error}"))?;
            assert!(["early", ""].contains(&response.text().as_str()), "{what}");
            // It may be closed by now.
            let _ = wire.send(body.as_bytes()).await;
            assert_eq!(wire.rest().await?, b"", "{what}");
            // Somebody else is served by the same app.
            app.answers("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
            let mut other = Wire::connect(setup.gateway.address()).await?;
            other.send(format!("GET /app/next HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await?;
            assert_eq!(other.response().await?.expect(200)?.text(), "next", "{what}");
            let heard = app.heard().concat();
            assert_eq!(heard.matches("/app/next").count(), 1, "{what}: {heard}");
            assert!(!heard.contains("smuggled"), "{what}: {heard}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_expectation_that_nobody_knows_is_the_apps_to_judge() -> Checked {
    let setup = Setup::new().await?;
    for expect in ["200-ok", "100-continue, x", "\"100-continue\""] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(&smuggler(&format!("Expect: {expect}\r\nContent-Length: 5\r\n"), "hello")).await?;
        let status = wire.response().await?.status;
        assert!(matches!(status, 200 | 417), "{expect}: {status}");
    }
    Ok(())
}

/// threats 12: what a client says before the app has agreed to a WebSocket is said to nobody before it has.
#[tokio::test]
async fn nothing_goes_through_a_tunnel_before_it_is_one() -> Checked {
    let app = Blunt::start().await?;
    let setup = Setup::with(Config::default().route(&app.route("app"))).await?;
    let inner = format!("GET /app/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let outer = format!(
        "GET /app/outer HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let granted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    // Declined, in several ways: what was said early is nothing.
    for declined in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ] {
        app.forget();
        app.answers_in_two("", declined);
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(format!("{outer}{inner}").as_bytes()).await?;
        eventually("the app has heard the request", async || Ok(app.heard().concat().contains("/app/outer")))
            .await?;
        app.go_on().await?;
        let all = statuses(&wire.rest().await?);
        assert_eq!(all.len(), 1, "{declined}: {all:?}");
        assert!(!app.heard().concat().contains("smuggled"), "{declined}");
    }
    // Granted: then it is the app's, and not before.
    app.forget();
    app.answers_in_two("", granted);
    let mut wire = Wire::connect(setup.gateway.address()).await?;
    wire.send(format!("{outer}early").as_bytes()).await?;
    eventually("the app has heard the request", async || Ok(app.heard().concat().contains("/app/outer")))
        .await?;
    assert!(wire.is_silent_for(Duration::from_millis(200)).await);
    assert!(!app.heard().concat().contains("early"), "it was said before the app agreed");
    app.go_on().await?;
    wire.until(b"\r\n\r\n").await?;
    eventually("what was said early arrives", async || Ok(app.heard().concat().contains("early"))).await
}

/// CVE-2026-2833: what stands behind an `Upgrade` that was not granted is a request or nothing.
#[tokio::test]
async fn an_upgrade_opens_nothing_before_the_app_agrees() -> Checked {
    let setup = Setup::new().await?;
    let inner = format!("GET /deploy/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for upgrade in ["websocket", "h2c", "TLS/1.2"] {
        let outer = format!(
            "GET /public/outer HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: x\r\n\r\n{inner}"
        );
        let bytes = said(&setup, outer.as_bytes()).await?;
        let all = statuses(&bytes);
        assert!(all.starts_with(&[200]) && !all[1..].contains(&200), "{upgrade}: {all:?}");
    }
    let seen = targets(&setup);
    assert!(seen.iter().all(|target| target == "GET /public/outer"), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn headers_have_limits() -> Checked {
    let setup = Setup::new().await?;
    let with = |fields: &str| {
        format!("GET /public/x HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{fields}\r\n").into_bytes()
    };
    for (what, fields, status) in [
        ("98 more", "X: y\r\n".repeat(98), 200),
        ("99 more", "X: y\r\n".repeat(99), 431),
        ("200 more", "X: y\r\n".repeat(200), 431),
        ("32 KiB", format!("X: {}\r\n", "y".repeat(32 * 1024 - 64)), 200),
        ("33 KiB", format!("X: {}\r\n", "y".repeat(33 * 1024)), 431),
        ("33 KiB in all", format!("X: {}\r\n", "y".repeat(1024)).repeat(33), 431),
        ("a long name", format!("{}: y\r\n", "x".repeat(40_000)), 431),
    ] {
        let bytes = said(&setup, &with(&fields)).await?;
        assert_eq!(
            statuses(&bytes),
            [status],
            "{what}: {}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(300)])
        );
    }
    // More than any parser wants is refused, or the connection is closed.
    for fields in ["X: y\r\n".repeat(5_000), format!("X: {}\r\n", "y".repeat(2 * 1024 * 1024))] {
        let bytes = said(&setup, &with(&fields)).await?;
        assert!(!statuses(&bytes).contains(&200));
    }
    assert_eq!(setup.upstream.received().len(), 2);
    // And the gateway is well.
    Browser::new().get(&setup.url("/public/x")).await?.expect(200)?;
    Ok(())
}

/// What an app may see of an attack on a path.
enum Seen {
    /// Exactly this.
    Only(&'static str),
    /// Nothing: the answer is this status.
    Nothing(u16),
}

/// threats 18 to 26. `/` is for `acme`, `/public` for all, `/deploy` for the administrators of `acme`.
const ATTACKS: &[(&str, Seen, Seen)] = &[
    // (target, nobody, a member of acme who is no administrator)
    ("/public/x", Seen::Only("/public/x"), Seen::Only("/public/x")),
    ("/deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/deploy/", Seen::Nothing(401), Seen::Nothing(403)),
    ("/deploy?/public/", Seen::Nothing(401), Seen::Nothing(403)),
    ("/deploy/public", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/./../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/../../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public//../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/%2e%2e/deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/%2E./deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/.%2e/deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/x/%2e%2e/%2e%2e/deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("//deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("///deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/./deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/x/../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/%64eploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/%64%65%70%6c%6F%79", Seen::Nothing(401), Seen::Nothing(403)),
    ("/deploy/../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/deploy/%2e", Seen::Nothing(401), Seen::Nothing(403)),
    ("/deploy//x", Seen::Nothing(401), Seen::Nothing(403)),
    // A step out of a public place lands where it lands.
    ("/deploy/../public/x", Seen::Only("/public/x"), Seen::Only("/public/x")),
    ("/deploy/%2e%2e/public/x", Seen::Only("/public/x"), Seen::Only("/public/x")),
    ("/public/../publics", Seen::Nothing(401), Seen::Only("/publics")),
    // What some decode, cut or fold and some do not is nobody's.
    ("/public%2f..%2fdeploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/..%2fdeploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%2e%2e%2fdeploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/x%2fdeploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/%2fdeploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/deploy%2f", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/..;/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/..;x=y/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%2e%2e;/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/..%3b/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public;/../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/deploy;x", Seen::Nothing(400), Seen::Nothing(400)),
    ("/deploy;/x", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public;x=/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public\\..\\deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/..\\deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public%5c..%5cdeploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("\\deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%00/../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/deploy%00", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/x%0d%0aX-Y:%20z", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/x%7f", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/x\x01", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%252e%252e/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%25252e%25252e/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%252e%252e%252fdeploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public%252fdeploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public%255cdeploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/deploy%2500", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%c0%ae%c0%ae/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%e0%80%ae/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%ff", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%u002e", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%2", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%zz", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%%32e/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/\0/../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public\t/../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/\x7f", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%0a", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%1F", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/..%00/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/..%09/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/..\\/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%5C../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/.%5c../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%2F../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/;/../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/.;/../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%2e%2e%3b/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/;/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/deploy;jsessionid=1", Seen::Nothing(400), Seen::Nothing(400)),
    ("/deploy%3bx", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%c0%af../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%c1%9c../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%e0%80%af../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%f0%80%80%af../deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%ed%a0%80", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%25%32%65%25%32%65/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/%252E%252E%255Cdeploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/public/..%253b/deploy", Seen::Nothing(400), Seen::Nothing(400)),
    ("/deploy%253bx", Seen::Nothing(400), Seen::Nothing(400)),
    ("/deploy%2523", Seen::Nothing(401), Seen::Only("/deploy%2523")),
    // What is behind `#` never leaves a browser, and is cut off; encoded it is a letter like any other.
    ("/public/x#/../../deploy", Seen::Only("/public/x"), Seen::Only("/public/x")),
    ("/deploy#/../public", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/%23/../../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public%23/../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public%3f/../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/x%3F/../../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public /../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/deploy /../public", Seen::Only("/public"), Seen::Only("/public")),
    ("/public/../deploy?/../public/", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/.%2E/%64eploy/%2E", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/...//../../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/public/.../deploy", Seen::Only("/public/.../deploy"), Seen::Only("/public/.../deploy")),
    ("/public/%2e%2e%2e/deploy", Seen::Only("/public/.../deploy"), Seen::Only("/public/.../deploy")),
    ("/../../../deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/%2E%2E/%2e%2e/deploy", Seen::Nothing(401), Seen::Nothing(403)),
    ("/DEPLOY", Seen::Nothing(401), Seen::Only("/DEPLOY")),
    ("/%44eploy", Seen::Nothing(401), Seen::Only("/Deploy")),
    // Whole segments, exact case, no suffix and no query makes a place public.
    ("/publicdeploy", Seen::Nothing(401), Seen::Only("/publicdeploy")),
    ("/public..", Seen::Nothing(401), Seen::Only("/public..")),
    ("/public.", Seen::Nothing(401), Seen::Only("/public.")),
    ("/Public/x", Seen::Nothing(401), Seen::Only("/Public/x")),
    ("/x?/public/", Seen::Nothing(401), Seen::Only("/x?/public/")),
    ("/x?p=/public/../x", Seen::Nothing(401), Seen::Only("/x?p=/public/../x")),
    ("/x.css", Seen::Nothing(401), Seen::Only("/x.css")),
    // One spelling, and that is the one that is sent.
    ("/public/%7Euser/%C3%BC", Seen::Only("/public/~user/%C3%BC"), Seen::Only("/public/~user/%C3%BC")),
    ("/public/%c3%bc%20", Seen::Only("/public/%C3%BC%20"), Seen::Only("/public/%C3%BC%20")),
    ("/public//x///y/", Seen::Only("/public/x/y/"), Seen::Only("/public/x/y/")),
    ("/public/x/.", Seen::Only("/public/x/"), Seen::Only("/public/x/")),
    (
        "/public/a%20b?c=%2f..%2F&d=%00",
        Seen::Only("/public/a%20b?c=%2f..%2F&d=%00"),
        Seen::Only("/public/a%20b?c=%2f..%2F&d=%00"),
    ),
    ("/public/x?", Seen::Only("/public/x?"), Seen::Only("/public/x?")),
];

#[tokio::test]
async fn an_app_sees_exactly_the_path_that_was_decided_on() -> Checked {
    let setup = Setup::new().await?;
    let ben = setup.signed_in("ben").await?;
    let cookie = ben.cookie_header(&setup.url("/"))?.ok_or("no cookie")?;
    let host = setup.gateway.address();
    for (target, nobody, member) in ATTACKS {
        for (who, cookie, expected) in [("nobody", "a=1", nobody), ("ben", cookie.as_str(), member)] {
            let before = setup.upstream.received().len();
            let bytes = said(
                &setup,
                format!(
                    "GET {target} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
                )
                .as_bytes(),
            )
            .await?;
            let received = setup.upstream.received();
            let seen: Vec<&str> = received[before..].iter().map(|request| request.target.as_str()).collect();
            let (status, sent) = match expected {
                Seen::Only(sent) => (200, vec![*sent]),
                Seen::Nothing(status) => (*status, Vec::new()),
            };
            assert_eq!(statuses(&bytes), [status], "{target} by {who}");
            assert_eq!(seen, sent, "{target} by {who}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_place_for_administrators_opens_to_administrators_under_one_spelling() -> Checked {
    let setup = Setup::new().await?;
    let ann = setup.signed_in("ann").await?;
    for (target, seen) in [
        ("/deploy", "/deploy"),
        ("/public/../deploy/x", "/deploy/x"),
        ("//deploy/%78", "/deploy/x"),
        ("/deploy/./x?a=/../public", "/deploy/x?a=/../public"),
    ] {
        let response = ann.fetch(Request::get(&setup.url(target))).await?;
        assert_eq!(response.expect(200)?.json()?["target"], seen, "{target}");
    }
    Ok(())
}

/// What a client leaves behind it on a connection belongs to nobody else.
#[tokio::test]
async fn a_request_that_never_ends_holds_nobody_up() -> Checked {
    let setup = Setup::new().await?;
    let mut halves = Vec::new();
    for half in [
        "GET /public/x HTTP/1.1\r\nHost: ",
        "POST /public/x HTTP/1.1\r\nHost: wiki.example.com\r\nContent-Length: 100\r\n\r\nabc",
        "G",
    ] {
        let mut wire = Wire::connect(setup.gateway.address()).await?;
        wire.send(half.as_bytes()).await?;
        halves.push(wire);
    }
    for _ in 0..20 {
        let bytes = said(&setup, &smuggler("Content-Length: 0\r\nConnection: close\r\n", "")).await?;
        assert_eq!(statuses(&bytes), [200]);
    }
    Ok(())
}
