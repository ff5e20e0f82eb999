//! Which app gets a request, over which connection, and what happens when it does not answer.

use crate::support::{Authority, Checked, Config, Nginx, Request, Setup, send};

#[tokio::test]
async fn a_real_nginx_is_an_app() -> Checked {
    let nginx = Nginx::saying("one $connection_requests").await?;
    let setup = Setup::with(
        Config::default()
            .route(&format!("name: one, path: /one, access: public, upstream: \"{}\"", nginx.url())),
    )
    .await?;
    let answer = send(&Request::get(&setup.url("/one"))).await?;
    assert_eq!(answer.expect(200)?.text(), "one 1");
    let answer = send(&Request::get(&setup.url("/one"))).await?;
    assert_eq!(answer.expect(200)?.text(), "one 2");
    Ok(())
}

#[tokio::test]
async fn an_app_whose_certificate_nobody_vouches_for_gets_no_request() -> Checked {
    let authority = Authority::new()?;
    let (certificate, key) = authority.issue("DNS:localhost")?;
    let nginx = Nginx::start_with(
        "server { listen @ADDRESS@ ssl; ssl_certificate app.pem; ssl_certificate_key app.key;\n\
         location / { return 200 secret; } }",
        |folder| {
            std::fs::copy(certificate, folder.join("app.pem"))?;
            std::fs::copy(key, folder.join("app.key"))?;
            Ok(())
        },
    )
    .await?;
    let route = format!(
        "name: one, path: /one, access: public, upstream: \"https://localhost:{}\"",
        nginx.address().port()
    );
    let setup = Setup::with(Config::default().route(&route)).await?;
    send(&Request::get(&setup.url("/one"))).await?.expect(502)?;
    assert_eq!(nginx.log()?, [""; 0]);
    Ok(())
}
