//! `hearken generate`: man pages, completions and the reference of commands, made from the command line's own definition.
//! Hidden from `--help`: packages are made with it.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use clap::{Arg, Args, Command, CommandFactory, Subcommand};
use clap_complete::Shell;

use super::{Cli, CliError, Done};

#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write a man page for hearken and one for each subcommand into a folder
    Man {
        /// Folder, made if it is not there
        dir: PathBuf,
    },
    /// Print a shell's completions
    Completions {
        /// Shell to complete for
        shell: Shell,
    },
    /// Print the reference of all commands as Markdown
    Commands,
    /// Print the JSON schema of the control protocol
    Protocol,
}

impl GenerateArgs {
    pub fn run(&self, out: &mut impl Write) -> Done {
        match &self.what {
            What::Man { dir } => man(dir, out),
            What::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut visible(), "hearken", &mut script);
                Ok(out.write_all(&script)?)
            }
            What::Commands => Ok(out.write_all(markdown(&visible()).as_bytes())?),
            What::Protocol => Ok(out.write_all(crate::control::schema::schema().as_bytes())?),
        }
    }
}

/// The command line without what is hidden: clap's generators do not all leave that out.
fn visible() -> Command {
    let mut all = Cli::command().disable_help_subcommand(true);
    all.build();
    let shown: Vec<_> = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let mut root = Cli::command().disable_help_subcommand(true);
    root = Command::new("hearken")
        .version(env!("CARGO_PKG_VERSION"))
        .about(root.get_about().cloned().unwrap_or_default())
        .arg_required_else_help(true)
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommands(shown);
    root.build();
    root
}

fn man(dir: &PathBuf, out: &mut impl Write) -> Done {
    let failed = |error: std::io::Error| {
        CliError::Run(format!(
            "cannot write man pages to {}: {error}; give a folder that can be written",
            dir.display()
        ))
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let root = visible();
    let pages = std::iter::once((String::from("hearken"), root.clone()));
    let subs = root.get_subcommands().map(|command| {
        let name = format!("hearken-{}", command.get_name());
        // The page's own name; its synopsis keeps the command as it is typed.
        (name.clone(), command.clone().name(name).bin_name(format!("hearken {}", command.get_name())))
    });
    for (name, command) in pages.chain(subs) {
        let mut page = Vec::new();
        let titled = clap_mangen::Man::new(command.version(env!("CARGO_PKG_VERSION"))).manual("hearken");
        titled.render(&mut page).map_err(failed)?;
        std::fs::write(dir.join(format!("{name}.1")), page).map_err(failed)?;
        writeln!(out, "{name}.1")?;
    }
    Ok(())
}

/// The reference: one section a command, with usage and a table of its arguments.
fn markdown(root: &Command) -> String {
    let mut text = String::from(
        "# Commands\n\nGenerated from the source by `hearken generate commands`; do not edit.\n\n\
         Exit codes: 0 done, 1 the run failed, 2 usage or configuration, 3 nothing failed but something could be better (`doctor`).\n\
         `hearken generate man DIR` writes man pages, `hearken generate completions bash|zsh|fish` prints completions. `HEARKEN_LOG` sets what is\n\
         logged; see [Packages and services](packages.md).\n\n| command | |\n|---|---|\n",
    );
    for command in root.get_subcommands() {
        let (name, about) = (command.get_name(), about(command));
        let _ = writeln!(text, "| [`{name}`](#hearken-{name}) | {about} |");
    }
    text.push_str("\n## Every command\n\n| argument | what it is |\n|---|---|\n");
    let command = root.get_subcommands().next();
    let everywhere = command.into_iter().flat_map(Command::get_arguments).filter(|arg| arg.is_global_set());
    everywhere.for_each(|arg| argument(&mut text, arg));
    for command in root.get_subcommands() {
        describe(&mut text, command, &format!("hearken {}", command.get_name()), 2);
    }
    text
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn describe(text: &mut String, command: &Command, name: &str, level: usize) {
    let usage = command.clone().bin_name(name).render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let _ = write!(text, "\n{} {name}\n\n{}.\n\n```text\n{usage}\n```\n", "#".repeat(level), about(command));
    let arguments: Vec<_> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !arg.is_global_set() && !is_standard(arg))
        .collect();
    if !arguments.is_empty() {
        text.push_str("\n| argument | what it is |\n|---|---|\n");
        arguments.iter().for_each(|arg| argument(text, arg));
    }
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        describe(text, sub, &format!("{name} {}", sub.get_name()), level + 1);
    }
}

fn is_standard(arg: &Arg) -> bool {
    ["help", "version"].contains(&arg.get_id().as_str())
}

fn argument(text: &mut String, arg: &Arg) {
    let values: Vec<_> =
        arg.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>")).collect();
    let takes = arg.get_action().takes_values();
    let value = if takes && !values.is_empty() { values.join(" ") } else { String::new() };
    let name = match (arg.get_long(), arg.get_short()) {
        (Some(long), Some(short)) => format!("-{short}, --{long} {value}"),
        (Some(long), None) => format!("--{long} {value}"),
        (None, Some(short)) => format!("-{short} {value}"),
        (None, None) => value,
    };
    let mut words = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let choices: Vec<_> = arg
        .get_possible_values()
        .iter()
        .filter(|_| takes)
        .map(|word| format!("`{}`", word.get_name()))
        .collect();
    if !choices.is_empty() {
        let _ = write!(words, "; one of {}", choices.join(", "));
    }
    let defaults: Vec<_> =
        arg.get_default_values().iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if takes && !defaults.is_empty() {
        let _ = write!(words, "; default `{}`", defaults.join(" "));
    }
    let _ = writeln!(text, "| `{}` | {} |", name.trim(), words.replace('|', "\\|").replace('\n', " "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_commands_is_what_the_source_says() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/commands.md");
        let made = markdown(&visible());
        if std::env::var_os("HEARKEN_BLESS").is_some() {
            std::fs::write(&page, &made).expect("the page");
        }
        let written = std::fs::read_to_string(&page).unwrap_or_default();
        let next = "HEARKEN_BLESS=1 cargo test -p dataplane --lib generate";
        assert!(written == made, "docs/src/commands.md is not what the source says; write it with {next}");
        assert!(made.contains("## hearken shield") && !made.contains("hearken generate <"));
    }

    #[test]
    fn every_command_has_a_man_page_and_completions() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut out = Vec::new();
        man(&dir.path().to_owned(), &mut out).expect("man pages");
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let page = dir.path().join(format!("hearken-{}.1", command.get_name()));
            let text = std::fs::read_to_string(&page).expect("a page");
            assert!(text.contains(".SH SYNOPSIS"), "{text}");
        }
        assert!(!dir.path().join("hearken-generate.1").exists());
        let mut script = Vec::new();
        GenerateArgs { what: What::Completions { shell: Shell::Bash } }.run(&mut script).expect("a script");
        let script = String::from_utf8(script).expect("UTF-8");
        assert!(script.contains("shield") && !script.contains("generate"), "{script}");
    }
}
