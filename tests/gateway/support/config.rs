//! A configuration file for one test.
//!
//! The variables `$LISTEN` and `$PORT` of it, `$SECOND` and `$THIRD` for more listeners, `$ADMIN`, `$UPSTREAM`, `$BITBUCKET`, `$CLIENT_ID` and `$CLIENT_SECRET` are set.

/// What differs from test to test. Everything is YAML.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    bitbucket: String,
    top: String,
    routes: String,
}

const ROUTES: &str = "
- { name: wiki, path: /, teams: [acme], upstream: $UPSTREAM }
- { name: deploy, path: /deploy, teams: [acme/administrators], upstream: $UPSTREAM }
- { name: globex, path: /globex, teams: [globex], upstream: $UPSTREAM }
- { name: lobby, path: /lobby, access: signed-in, upstream: $UPSTREAM }
- { name: public, path: /public, access: public, upstream: $UPSTREAM }
";

impl Default for Config {
    /// Everybody may sign in. Routes: `/` for `acme`, `/deploy` for its administrators, `/globex` for `globex`,
    /// `/lobby` for whoever is signed in, `/public` for all.
    fn default() -> Config {
        Config {
            bitbucket: "include_team_groups: true\n".to_owned(),
            top: String::new(),
            routes: ROUTES.to_owned(),
        }
    }
}

impl Config {
    /// More keys of `bitbucket:`.
    pub(crate) fn bitbucket(mut self, lines: &str) -> Config {
        self.bitbucket.push_str(lines);
        self.bitbucket.push('\n');
        self
    }

    /// More keys of the top level. `listen`, `admin`, `external_url` and `log` replace what would stand there.
    pub(crate) fn top(mut self, lines: &str) -> Config {
        self.top.push_str(lines);
        self.top.push('\n');
        self
    }

    /// More lines of the key that was given last to [`Config::top`].
    pub(crate) fn top_continued(mut self, key: &str, lines: &str) -> Config {
        let at = self.top.find(key).map_or(self.top.len(), |at| at + key.len());
        self.top.insert_str(at, lines);
        self
    }

    /// These routes instead: a YAML list.
    pub(crate) fn routes(mut self, lines: &str) -> Config {
        lines.clone_into(&mut self.routes);
        self
    }

    /// One more route: the inside of a `{ }`.
    pub(crate) fn route(mut self, fields: &str) -> Config {
        self.routes.push_str(&format!("\n- {{ {fields} }}\n"));
        self
    }

    /// The whole file.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (key, line) in [
            ("listen:", "listen:\n  - address: $LISTEN"),
            ("admin:", "admin: { address: $ADMIN }"),
            ("external_url:", "external_url: http://$LISTEN"),
            ("log:", "log: { format: json }"),
        ] {
            if !self.top.lines().any(|own| own.starts_with(key)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        let credentials = "client_id: $CLIENT_ID\nclient_secret: $CLIENT_SECRET\nweb_url: $BITBUCKET\n\
                           api_url: $BITBUCKET/2.0\n";
        text.push_str(&format!("bitbucket:\n{}", indented(credentials)));
        text.push_str(&indented(&self.bitbucket));
        text.push_str(&unhurried(&self.top));
        text.push_str(&format!("routes:\n{}", indented(&self.routes)));
        text
    }
}

/// Tests ask every second what others ask every five minutes: unless a test is about the budget, it has none.
fn unhurried(top: &str) -> String {
    match top.contains("budget:") {
        true => top.to_owned(),
        false => top.replace("directory: {", "directory: { budget: none,"),
    }
}

fn indented(lines: &str) -> String {
    lines.lines().filter(|line| !line.trim().is_empty()).map(|line| format!("  {line}\n")).collect()
}
