//! Topic patterns of rules: topic filters in which `${…}` stands for what is known of the client.

use crate::{
    hub::{FilterError, TopicFilter},
    request::Origin,
};

/// A topic filter with variables: `${clientid}`, `${username}`, `${cert_common_name}` and `${claim.NAME}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<[Level]>);

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The filter breaks a rule of MQTT 5, section 4.7.
    #[error("\"{0}\": {1}")]
    Filter(String, FilterError),
    /// Rules judge shared subscriptions by their filters.
    #[error("\"{0}\": leave $share/group/ out; a shared subscription is judged by its filter")]
    Shared(String),
    /// Nothing is known by that name.
    #[error(
        "\"{0}\": ${{{1}}} is not known; write ${{clientid}}, ${{username}}, ${{cert_common_name}} or ${{claim.NAME}}"
    )]
    Variable(String, String),
    /// `${` without an end.
    #[error("\"{0}\": a variable ends with }}, on the level that it begins on")]
    Unended(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Text(Box<str>),
    /// Text with variables in it.
    Template(Box<[Part]>),
    /// `+`
    Any,
    /// `#`
    Rest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Variable(Variable),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    ClientId,
    UserName,
    CertificateName,
    Claim(Box<str>),
}

/// Why a template has no text for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoText {
    /// Nothing is known of the client by that name: there is no such topic.
    Missing,
    /// The value cannot stand on one level, or would make it another kind of level.
    Unusable,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.starts_with("$share/") {
            return Err(PatternError::Shared(text.to_owned()));
        }
        TopicFilter::parse(text, usize::MAX).map_err(|error| PatternError::Filter(text.to_owned(), error))?;
        text.split('/').map(|level| parse_level(level, text)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether it stands for more than one topic of a client's.
    pub fn has_wildcard(&self) -> bool {
        self.0.iter().any(|level| matches!(level, Level::Any | Level::Rest))
    }

    /// What it is for one client. `None` where it has a wildcard, or a variable without a value that can stand there.
    pub fn expand(&self, origin: &Origin) -> Option<String> {
        let level = |(at, level): (usize, &Level)| match level {
            Level::Text(text) => Some(text.to_string()),
            Level::Template(parts) => resolve(parts, at, origin).ok(),
            Level::Any | Level::Rest => None,
        };
        let levels: Vec<_> = self.0.iter().enumerate().map(level).collect::<Option<_>>()?;
        Some(levels.join("/"))
    }

    /// Whether every topic that `filter` stands for is the pattern's too. `filter` is a topic name or filter.
    ///
    /// ```text
    ///  a/+ covers a/b and a/+          not a/#
    ///  a/# covers a, a/b, a/+/c, a/#   not +/b, not #
    /// ```
    pub(super) fn covers(&self, filter: &str, origin: &Origin) -> bool {
        if self.begins_with_wildcard() && filter.starts_with('$') {
            // MQTT-4.7.2-1
            return false;
        }
        let mut asked = filter.split('/');
        for (at, level) in self.0.iter().enumerate() {
            if *level == Level::Rest {
                // It also stands for the parent level (4.7.1.2), so nothing need be left.
                return true;
            }
            let Some(text) = asked.next() else { return false };
            let is_covered = match level {
                Level::Any => text != "#",
                Level::Text(level) => text == &**level,
                Level::Template(parts) => resolve(parts, at, origin).is_ok_and(|level| text == level),
                Level::Rest => true,
            };
            if !is_covered {
                return false;
            }
        }
        asked.next().is_none()
    }

    /// Whether there is a topic that both `filter` and the pattern stand for. A value that cannot stand in the pattern
    /// stands for every value, with all that is below.
    pub(super) fn overlaps(&self, filter: &str, origin: &Origin) -> bool {
        // MQTT-4.7.2-1, both ways.
        let is_apart = (self.begins_with_wildcard() && filter.starts_with('$'))
            || (filter.starts_with(['+', '#']) && self.begins_with_dollar());
        if is_apart {
            return false;
        }
        let mut asked = filter.split('/');
        for (at, level) in self.0.iter().enumerate() {
            let text = match (level, asked.next()) {
                (Level::Rest, _) | (_, Some("#")) => return true,
                (_, None) => return false,
                (_, Some(text)) => text,
            };
            let meets = match level {
                Level::Any | Level::Rest => true,
                Level::Text(level) => text == "+" || text == &**level,
                Level::Template(parts) => match resolve(parts, at, origin) {
                    Ok(level) => text == "+" || text == level,
                    Err(NoText::Missing) => false,
                    Err(NoText::Unusable) => return true,
                },
            };
            if !meets {
                return false;
            }
        }
        // `#` also stands for its parent level.
        matches!(asked.next(), None | Some("#"))
    }

    fn begins_with_wildcard(&self) -> bool {
        matches!(self.0.first(), Some(Level::Any | Level::Rest))
    }

    fn begins_with_dollar(&self) -> bool {
        match self.0.first() {
            Some(Level::Text(text)) => text.starts_with('$'),
            Some(Level::Template(parts)) => {
                matches!(parts.first(), Some(Part::Text(text)) if text.starts_with('$'))
            }
            _ => false,
        }
    }
}

fn parse_level(level: &str, pattern: &str) -> Result<Level, PatternError> {
    match level {
        "+" => return Ok(Level::Any),
        "#" => return Ok(Level::Rest),
        _ => {}
    }
    let mut parts = Vec::new();
    let mut rest = level;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or_else(|| PatternError::Unended(pattern.to_owned()))?;
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        let unknown = || PatternError::Variable(pattern.to_owned(), name.to_owned());
        parts.push(Part::Variable(Variable::parse(name).ok_or_else(unknown)?));
        rest = after;
    }
    if parts.is_empty() {
        return Ok(Level::Text(level.into()));
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.into()));
    }
    Ok(Level::Template(parts.into()))
}

impl Variable {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "clientid" => Self::ClientId,
            "username" => Self::UserName,
            "cert_common_name" => Self::CertificateName,
            _ => Self::Claim(name.strip_prefix("claim.").filter(|name| !name.is_empty())?.into()),
        })
    }

    fn value<'o>(&self, origin: &'o Origin) -> Option<&'o str> {
        match self {
            Self::ClientId => origin.client_id.as_deref(),
            Self::UserName => origin.user.as_deref(),
            Self::CertificateName => origin.identity.as_ref()?.common_name.as_deref(),
            Self::Claim(name) => origin.claims.as_ref()?.one(name),
        }
    }
}

/// The text of a level. A value never adds a level, a wildcard, or a topic of the server's own.
fn resolve(parts: &[Part], level: usize, origin: &Origin) -> Result<String, NoText> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(part) => text.push_str(part),
            Part::Variable(variable) => {
                let value = variable.value(origin).ok_or(NoText::Missing)?;
                if value.is_empty() || value.contains(['+', '#', '/', '\0']) {
                    return Err(NoText::Unusable);
                }
                if level == 0 && text.is_empty() && value.starts_with('$') {
                    return Err(NoText::Unusable);
                }
                text.push_str(value);
            }
        }
    }
    Ok(text)
}
