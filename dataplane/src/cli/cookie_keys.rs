//! `hearken cookie-keys`

use std::io::Write;

use clap::{Args, Subcommand};

use super::{Done, ServerArgs, print};
use crate::control::cookie_keys::CookieKeysReply;
use crate::control::proto::Request;

#[derive(Debug, Args)]
pub(super) struct CookieKeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show which generations are in use; two servers that share keys show the same
    Show(Options),
    /// Change them: read cookies.secret_file again, or draw new ones; the generation before stays valid
    Rotate(Options),
}

#[derive(Debug, Args)]
struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl CookieKeysArgs {
    pub(super) fn run(&self, out: &mut impl Write) -> Done {
        let (rotate, options) = match &self.action {
            Action::Show(options) => (false, options),
            Action::Rotate(options) => (true, options),
        };
        let reply: CookieKeysReply = options.server.connect()?.call(&Request::CookieKeys { rotate })?;
        print(out, options.json, &reply, || text(&reply))
    }
}

fn text(reply: &CookieKeysReply) -> String {
    let source = reply.file.as_ref().map_or_else(|| "random".to_owned(), |file| file.display().to_string());
    let other = reply.other.as_deref().unwrap_or("-");
    let CookieKeysReply { rotations, age_s, current, .. } = reply;
    format!(
        "source     {source}\ncurrent    {current}  makes cookies, checks them\nother      {other:8}  only checks them\n\
         rotations  {rotations}\nage        {age_s} s\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_is_in_use() {
        let mut reply =
            CookieKeysReply { file: None, rotations: 0, age_s: 7, current: "0badcafe".into(), other: None };
        assert_eq!(
            text(&reply),
            "source     random\n\
             current    0badcafe  makes cookies, checks them\n\
             other      -         only checks them\n\
             rotations  0\n\
             age        7 s\n"
        );
        reply.file = Some("/etc/hearken/cookies".into());
        reply.other = Some("00000001".into());
        let said = text(&reply);
        assert!(
            said.starts_with("source     /etc/hearken/cookies\n") && said.contains("00000001  only"),
            "{said}"
        );
    }
}
