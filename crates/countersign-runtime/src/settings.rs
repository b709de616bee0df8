//! A program's settings as they are read: values by name, and every mistake in them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use crate::setting::Setting;

/// The values of a program's settings. It collects the mistakes in them, so that a person sees
/// every one at once.
#[derive(Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, Option<String>>,
    mistakes: Vec<String>,
}

impl Settings {
    /// The settings `known`, with values from name and text pairs. Names that are not known are
    /// left out. An empty text counts as not given.
    #[must_use]
    pub fn from_pairs(
        known: &[Setting],
        pairs: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let given: BTreeMap<String, String> =
            pairs.into_iter().filter(|(_, text)| !text.trim().is_empty()).collect();
        let value = |setting: &Setting| {
            given.get(setting.name).map(String::as_str).or(setting.default).map(str::to_owned)
        };
        let values = known.iter().map(|setting| (setting.name, value(setting))).collect();
        Self { values, mistakes: Vec::new() }
    }

    /// A setting's value. `None` if the setting has none, or a wrong one, which is then recorded as
    /// a mistake.
    pub fn read<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        self.parse(name, str::parse)
    }

    /// A duration with its unit, such as `500ms`, `30s`, `5m`, `24h` or `30d`.
    pub fn duration(&mut self, name: &str) -> Option<Duration> {
        self.parse(name, humantime::parse_duration)
    }

    /// A comma-separated list; spaces around its items do not count.
    pub fn list<T>(&mut self, name: &str) -> Option<Vec<T>>
    where
        T: FromStr<Err: Display>,
    {
        self.parse(name, |text| {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::parse).collect()
        })
    }

    /// A setting's value, read by `parse`.
    pub fn parse<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let Some(text) = self.values.get(name).and_then(Option::as_deref) else {
            self.mistake(name, "is not set");
            return None;
        };
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(why) => {
                self.mistake(name, why);
                None
            }
        }
    }

    /// A secret that is given either in the setting `name` or in the file that the setting `file`
    /// names; a line end at the file's end does not count. `None` if neither is given, or if there
    /// is a mistake, which is then recorded.
    pub fn secret<T>(&mut self, name: &str, file: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        match (self.is_set(name), self.is_set(file)) {
            (false, false) => None,
            (true, false) => self.read(name),
            (true, true) => {
                self.mistake(file, format!("{name} is set too: set one of them"));
                None
            }
            (false, true) => self.parse(file, |path| {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("cannot read {path}: {error}"))?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                text.parse()
                    .map_err(|why: T::Err| format!("what is in {path} cannot be used: {why}"))
            }),
        }
    }

    /// Whether a setting has a value, its default included.
    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(Option::is_some)
    }

    /// Records a mistake that only shows when settings are seen together.
    pub fn mistake(&mut self, name: &str, why: impl Display) {
        self.mistakes.push(format!("{name}: {why}"));
    }

    /// Every mistake so far, in the order of reading.
    #[must_use]
    pub fn mistakes(&self) -> &[String] {
        &self.mistakes
    }

    /// The settings' values for the log, secrets left out.
    pub(crate) fn shown(&self, known: &[Setting]) -> String {
        let show = |setting: &Setting| match self.values.get(setting.name)?.as_deref()? {
            _ if setting.secret => Some(format!("{}=(set)", setting.name)),
            text => Some(format!("{}={text}", setting.name)),
        };
        known.iter().filter_map(show).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::{AMQP_URL, DATABASE_URL, DRAIN, LOG, TOKEN, TOKEN_FILE};

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let pairs = pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Settings::from_pairs(&[AMQP_URL, DATABASE_URL, DRAIN, LOG, TOKEN, TOKEN_FILE], pairs)
    }

    #[test]
    fn every_mistake_is_recorded_not_only_the_first() {
        let mut settings = settings(&[("COUNTERSIGN_DRAIN", "soon"), ("COUNTERSIGN_LOG", "7x")]);
        assert_eq!(settings.read::<String>("COUNTERSIGN_AMQP_URL"), None);
        assert_eq!(settings.duration("COUNTERSIGN_DRAIN"), None);
        assert_eq!(settings.read::<u16>("COUNTERSIGN_LOG"), None);
        let mistakes = settings.mistakes().join("\n");
        for name in ["COUNTERSIGN_AMQP_URL: is not set", "COUNTERSIGN_DRAIN: ", "COUNTERSIGN_LOG: "]
        {
            assert!(mistakes.contains(name), "{name} is missing in:\n{mistakes}");
        }
    }

    #[test]
    fn a_default_counts_when_nothing_or_only_blanks_are_given() {
        let mut settings = settings(&[("COUNTERSIGN_DRAIN", "  ")]);
        assert_eq!(settings.duration("COUNTERSIGN_DRAIN"), Some(Duration::from_secs(8)));
    }

    #[test]
    fn a_list_is_read_item_by_item() {
        let mut settings = settings(&[("COUNTERSIGN_LOG", "1, 2 ,3,")]);
        assert_eq!(settings.list::<u8>("COUNTERSIGN_LOG"), Some(vec![1, 2, 3]));
    }

    #[test]
    fn a_secret_is_read_from_its_setting_or_its_file_but_not_both() {
        let path = std::env::temp_dir().join(format!("countersign-token-{}", std::process::id()));
        std::fs::write(&path, "7\r\n").unwrap();
        let file = path.to_str().unwrap();
        let (name, in_file) = ("COUNTERSIGN_TOKEN", "COUNTERSIGN_TOKEN_FILE");
        let read = |pairs: &[(&str, &str)]| {
            let mut settings = settings(pairs);
            (settings.secret::<u16>(name, in_file), settings.mistakes().join("\n"))
        };
        assert_eq!(read(&[]), (None, String::new()));
        assert_eq!(read(&[(name, "8")]), (Some(8), String::new()));
        assert_eq!(read(&[(in_file, file)]), (Some(7), String::new()));
        let (both, mistake) = read(&[(in_file, file), (name, "8")]);
        assert_eq!(both, None);
        assert!(mistake.contains("COUNTERSIGN_TOKEN is set too"), "{mistake}");
        std::fs::remove_file(&path).unwrap();
        let (missing, mistake) = read(&[(in_file, file)]);
        assert_eq!(missing, None);
        assert!(mistake.contains("cannot read"), "{mistake}");
    }

    #[test]
    fn what_is_shown_holds_no_secret() {
        let settings = settings(&[
            ("COUNTERSIGN_AMQP_URL", "amqp://u:hunter2@h"),
            ("COUNTERSIGN_LOG", "debug"),
        ]);
        let shown = settings.shown(&[AMQP_URL, DATABASE_URL, LOG]);
        assert_eq!(shown, "COUNTERSIGN_AMQP_URL=(set) COUNTERSIGN_LOG=debug");
    }
}
