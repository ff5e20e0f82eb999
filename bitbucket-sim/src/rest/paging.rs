//! Lists that come a page at a time.
//!
//! Owns: the query of a request, the cut of a list, the absolute link to the next page.
//! Must not know: what is in the list.

use serde_json::{Value, json};

use super::Failure;

const MOST: usize = 100;

/// The parameters of a request, in their order.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Query {
        Query(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn with_page(&self, page: usize) -> String {
        let others = self.0.iter().filter(|(name, _)| name != "page");
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(others).append_pair("page", &page.to_string());
        query.finish()
    }
}

/// Which page, how long.
pub(super) struct Page {
    number: usize,
    pagelen: usize,
}

impl Page {
    pub(super) fn asked(query: &Query, usual: usize, most: usize) -> Result<Page, Failure> {
        let number = match query.get("page").map(str::parse) {
            None => 1,
            Some(Ok(number)) if number > 0 => number,
            Some(_) => return Err(Failure::Invalid("Invalid page")),
        };
        let pagelen: usize = match query.get("pagelen").map(str::parse) {
            None => usual,
            Some(Ok(pagelen)) if (1..=MOST).contains(&pagelen) => pagelen,
            Some(_) => return Err(Failure::Invalid("Invalid pagelen")),
        };
        Ok(Page { number, pagelen: pagelen.min(most).clamp(1, MOST) })
    }

    /// `size` is told only when the whole list is on one page: a client must not need it.
    pub(super) fn of(&self, values: Vec<Value>, base: &str, path: &str, query: &Query) -> Value {
        let size = values.len();
        let skipped = (self.number - 1).saturating_mul(self.pagelen);
        let shown: Vec<Value> = values.into_iter().skip(skipped).take(self.pagelen).collect();
        let mut body = json!({"pagelen": self.pagelen, "page": self.number, "values": shown});
        if size <= self.pagelen {
            body["size"] = json!(size);
        }
        if skipped.saturating_add(self.pagelen) < size {
            body["next"] = json!(format!("{base}{path}?{}", query.with_page(self.number + 1)));
        }
        if self.number > 1 {
            body["previous"] = json!(format!("{base}{path}?{}", query.with_page(self.number - 1)));
        }
        body
    }
}

/// The value in a filter `field="value"`. The simulator understands these, and in [`any_of`] several of them.
pub(super) fn equals<'a>(filter: &'a str, field: &str) -> Option<&'a str> {
    let value = filter.trim().strip_prefix(field)?.trim_start().strip_prefix('=')?.trim();
    value.strip_prefix('"')?.strip_suffix('"')
}

/// The values in a filter `field="a" OR field="b" OR …`.
pub(super) fn any_of<'a>(filter: &'a str, field: &str) -> Option<Vec<&'a str>> {
    filter.split(" OR ").map(|one| equals(one, field)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str, entries: usize) -> Value {
        let query = Query::parse(query);
        let values = (0..entries).map(Value::from).collect();
        match Page::asked(&query, 2, 3) {
            Ok(page) => page.of(values, "http://bb", "/2.0/list", &query),
            Err(failure) => json!(format!("{failure:?}")),
        }
    }

    #[test]
    fn a_list_is_cut_and_linked_absolutely() {
        assert_eq!(
            page("sort=slug", 5),
            json!({"pagelen": 2, "page": 1, "values": [0, 1], "next": "http://bb/2.0/list?sort=slug&page=2"})
        );
        assert_eq!(
            page("page=2&sort=slug", 4),
            json!({"pagelen": 2, "page": 2, "values": [2, 3], "previous": "http://bb/2.0/list?sort=slug&page=1"})
        );
        assert_eq!(page("", 2), json!({"pagelen": 2, "page": 1, "values": [0, 1], "size": 2}));
        assert_eq!(page("", 0), json!({"pagelen": 2, "page": 1, "values": [], "size": 0}));
        assert_eq!(page("page=9", 2)["values"], json!([]));
    }

    #[test]
    fn the_caller_may_choose_the_length_within_limits() {
        assert_eq!(page("pagelen=1", 2)["next"], "http://bb/2.0/list?pagelen=1&page=2");
        assert_eq!(page("pagelen=100", 9)["pagelen"], 3);
        for query in ["pagelen=101", "pagelen=0", "pagelen=x", "page=0", "page=x"] {
            assert!(page(query, 2).as_str().is_some_and(|text| text.starts_with("Invalid")), "{query}");
        }
    }

    #[test]
    fn filters_compare_one_field() {
        assert_eq!(equals(r#"slug="acme""#, "slug"), Some("acme"));
        assert_eq!(equals(r#" slug = "acme" "#, "slug"), Some("acme"));
        assert_eq!(equals(r#"slug~"acme""#, "slug"), None);
        assert_eq!(equals(r#"name="acme""#, "slug"), None);
        assert_eq!(any_of(r#"slug="a" OR slug="b""#, "slug"), Some(vec!["a", "b"]));
        assert_eq!(any_of(r#"slug="a" OR name="b""#, "slug"), None);
    }
}
