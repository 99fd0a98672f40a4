//! What a strategy may be told: parameters with a name, a kind, a default and a range, each written down once.

use std::{fmt, time::Duration};

use super::units::{parse_duration, parse_size};

/// What a parameter is set to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A span of time.
    Time(Duration),
    /// A share or a factor.
    Number(f64),
    /// How many, or how many bytes.
    Count(u64),
    /// On or off.
    Switch(bool),
}

impl Value {
    /// The kind, for people.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Time(_) => "a time",
            Self::Number(_) => "a number",
            Self::Count(_) => "a count",
            Self::Switch(_) => "true or false",
        }
    }

    /// Reads `text` as a value of the kind that `self` has: `250ms`, `0.25`, `3` or `64KiB`, `true`.
    pub fn parse_alike(self, text: &str) -> Option<Self> {
        match self {
            Self::Time(_) => parse_duration(text).map(Self::Time),
            Self::Number(_) => text.parse().ok().map(Self::Number),
            Self::Count(_) => text.parse().ok().or_else(|| parse_size(text)).map(Self::Count),
            Self::Switch(_) => text.parse().ok().map(Self::Switch),
        }
    }

    /// Whether it is of the same kind as the bounds and within them.
    fn is_within(self, min: Self, max: Self) -> bool {
        match (self, min, max) {
            (Self::Time(value), Self::Time(min), Self::Time(max)) => (min..=max).contains(&value),
            (Self::Number(value), Self::Number(min), Self::Number(max)) => (min..=max).contains(&value),
            (Self::Count(value), Self::Count(min), Self::Count(max)) => (min..=max).contains(&value),
            (Self::Switch(_), Self::Switch(_), Self::Switch(_)) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(value) => write!(f, "{value:?}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Count(value) => write!(f, "{value}"),
            Self::Switch(value) => write!(f, "{value}"),
        }
    }
}

/// A type that parameters have.
pub trait Field: Copy {
    /// As a value.
    fn to_value(self) -> Value;
    /// From a value of its kind that it can hold.
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! field {
    ($type:ty, $variant:ident, $from:expr, $to:expr) => {
        impl Field for $type {
            fn to_value(self) -> Value {
                Value::$variant($to(self))
            }

            fn from_value(value: Value) -> Option<Self> {
                let Value::$variant(value) = value else { return None };
                $from(value)
            }
        }
    };
}

field!(Duration, Time, Some, |it| it);
field!(f64, Number, Some, |it| it);
field!(bool, Switch, Some, |it| it);
field!(u64, Count, Some, |it| it);
field!(u32, Count, |it: u64| it.try_into().ok(), u64::from);
field!(usize, Count, |it: u64| it.try_into().ok(), |it: usize| it as u64);

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// Its name within its section.
    pub name: &'static str,
    /// What it does, a line for each line of its description.
    pub about: &'static [&'static str],
    /// What it is unless somebody says otherwise.
    pub default: Value,
    /// The lowest value that is allowed.
    pub min: Value,
    /// The highest.
    pub max: Value,
}

/// Why a parameter was not set. It is as it was.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ParameterError {
    /// There is none of that name.
    #[error("{name} is not known{}", nearest.as_ref().map(|it| format!("; {it} is")).unwrap_or_default())]
    Unknown {
        /// The name as it was given.
        name: String,
        /// A name that it may have been meant to be.
        nearest: Option<String>,
    },
    /// It has another kind.
    #[error("{name} is {given}, which is {}; wanted is {wanted}", given.kind())]
    Kind {
        /// Which.
        name: String,
        /// What it was to be.
        given: Value,
        /// The kind that it has.
        wanted: &'static str,
    },
    /// What it was to be is not of its kind, or not written as that is.
    #[error("{name} cannot be `{text}`; wanted is {wanted}")]
    Unreadable {
        /// Which.
        name: String,
        /// What it was to be, as far as it is worth showing.
        text: String,
        /// The kind that it has, and how that is written.
        wanted: &'static str,
    },
    /// It would be out of its range.
    #[error("{name} is {given}, allowed are {min} to {max}")]
    Range {
        /// Which.
        name: String,
        /// What it was to be.
        given: Value,
        /// The lowest value that is allowed.
        min: Value,
        /// The highest.
        max: Value,
    },
}

/// The parameters of one strategy; `parameters!` writes it.
pub trait Parameters: Default + Clone {
    /// What the strategy is called where its parameters are named: `section.name`.
    const SECTION: &'static str;

    /// All of them, in the order of their descriptions.
    fn list() -> &'static [Parameter];

    /// What that one is.
    fn get(&self, name: &str) -> Option<Value>;

    /// Gives the field its value; false if it cannot hold it, or there is none. Ranges are not looked at.
    fn put(&mut self, name: &str, value: Value) -> bool;

    /// Whether values that are each in their range go together.
    ///
    /// # Errors
    /// For people.
    fn check_together(&self) -> Result<(), String>;

    /// Sets one.
    ///
    /// # Errors
    /// [`ParameterError`]
    fn set(&mut self, name: &str, value: Value) -> Result<(), ParameterError> {
        let full = || format!("{}.{name}", Self::SECTION);
        let Some(known) = Self::list().iter().find(|it| it.name == name) else {
            let nearest = nearest(name, Self::list().iter().map(|it| it.name));
            let nearest = nearest.map(|it| format!("{}.{it}", Self::SECTION));
            return Err(ParameterError::Unknown { name: full(), nearest });
        };
        let Parameter { default, min, max, .. } = *known;
        let is_kind = std::mem::discriminant(&default) == std::mem::discriminant(&value);
        if !is_kind {
            return Err(ParameterError::Kind { name: full(), given: value, wanted: default.kind() });
        }
        if !value.is_within(min, max) || !self.put(name, value) {
            return Err(ParameterError::Range { name: full(), given: value, min, max });
        }
        Ok(())
    }

    /// Names the first parameter that is out of its range, or what does not go together.
    ///
    /// # Errors
    /// For people.
    fn check_all(&self) -> Result<(), String> {
        for Parameter { name, min, max, .. } in Self::list() {
            let Some(value) = self.get(name) else { continue };
            if !value.is_within(*min, *max) {
                return Err(format!("{name} is {value}, allowed are {min} to {max}"));
            }
        }
        self.check_together()
    }
}

/// Writes a strategy's parameters as a struct, with their table.
///
/// ```text
/// parameters! {
///     /// What it is for.
///     pub struct ThingPolicy in "thing" {
///         /// What it does.
///         enabled: bool = true, false => true;
///         /// How long.
///         pause: Duration = seconds(5), seconds(1) => minutes(10);
///     }
///     check ThingPolicy::check_pauses;        // may be left out: fn(&ThingPolicy) -> Result<(), String>
/// }
/// ```
macro_rules! parameters {
    (
        $(#[doc = $about:literal])*
        pub struct $Policy:ident in $section:literal {
            $(
                $(#[doc = $doc:literal])*
                $field:ident: $type:ty = $default:expr, $min:expr => $max:expr;
            )*
        }
        $(check $check:path;)?
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Policy {
            $(
                $(#[doc = $doc])*
                #[doc = concat!(
                    " \n\n Default `", stringify!($default), "`, allowed are `", stringify!($min), "` to `",
                    stringify!($max), "`."
                )]
                pub $field: $type,
            )*
        }

        impl Default for $Policy {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $Policy {
            /// Names the first parameter that is out of its range, or what does not go together.
            ///
            /// # Errors
            /// For people.
            pub fn check(&self) -> Result<(), String> {
                $crate::policy::Parameters::check_all(self)
            }
        }

        impl $crate::policy::Parameters for $Policy {
            const SECTION: &'static str = $section;

            fn list() -> &'static [$crate::policy::Parameter] {
                static LIST: std::sync::LazyLock<Vec<$crate::policy::Parameter>> =
                    std::sync::LazyLock::new(|| {
                                                vec![$(
                            $crate::policy::Parameter {
                                name: stringify!($field),
                                about: &[$($doc),*],
                                default: <$type as $crate::policy::Field>::to_value($default),
                                min: <$type as $crate::policy::Field>::to_value($min),
                                max: <$type as $crate::policy::Field>::to_value($max),
                            },
                        )*]
                    });
                &LIST
            }

            fn get(&self, name: &str) -> Option<$crate::policy::Value> {
                match name {
                    $(stringify!($field) => Some($crate::policy::Field::to_value(self.$field)),)*
                    _ => None,
                }
            }

            fn put(&mut self, name: &str, value: $crate::policy::Value) -> bool {
                match name {
                    $(stringify!($field) => {
                        let Some(value) = <$type as $crate::policy::Field>::from_value(value) else {
                            return false;
                        };
                        self.$field = value;
                    })*
                    _ => return false,
                }
                true
            }

            fn check_together(&self) -> Result<(), String> {
                $($check(self)?;)?
                Ok(())
            }
        }
    };
}
pub(crate) use parameters;

/// A span for tables of parameters.
pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A span for tables of parameters.
pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A span for tables of parameters.
pub(crate) const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// A span for tables of parameters.
pub(crate) const fn hours(hours: u64) -> Duration {
    Duration::from_secs(3600 * hours)
}

/// What somebody may have meant: the name with the fewest letters changed, if those are few.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Names that are longer are no slip of the pen, and the work grows with the square.
    const LETTERS_MAX: usize = 100;
    if given.len() > LETTERS_MAX {
        return None;
    }
    let best = known.into_iter().map(|name| (distance(given, name), name)).min()?;
    (best.0 <= 1 + given.len() / 4).then_some(best.1)
}

/// Levenshtein's distance, in bytes.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}
