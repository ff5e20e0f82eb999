//! Signing in and out.

use crate::support::{Browser, Checked, Setup};

#[tokio::test]
async fn a_member_reaches_the_page_that_was_asked_for() -> Checked {
    let setup = Setup::new().await?;
    let page = Browser::new().sign_in(&setup.url("/pages/7?q=a%20b"), "ben").await?;
    assert_eq!(page.expect(200)?.json()?["target"], "/pages/7?q=a%20b");
    assert_eq!(page.echoed("x-forwarded-user")?.as_deref(), Some("b0000000-0000-4000-8000-0000000000b1"));
    Ok(())
}
