//! The kinds of request, as they are counted, made to fail and named in errors.
use object_store::{GetOptions, PutMode, PutOptions};

/// A kind of request to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Read an object or a range of it.
    Get,
    /// Read an object's size and version.
    Head,
    /// Put an object if none has its name.
    Create,
    /// Put an object if the present one is still the version that was read.
    Replace,
    /// Put an object, whatever is there.
    Put,
    /// Remove an object.
    Delete,
    /// List a folder.
    List,
}

impl Operation {
    /// Every kind, in a fixed order.
    pub const ALL: [Self; 7] =
        [Self::Get, Self::Head, Self::Create, Self::Replace, Self::Put, Self::Delete, Self::List];

    /// The word used in telemetry.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }

    pub(crate) fn of_put(options: &PutOptions) -> Self {
        match options.mode {
            PutMode::Overwrite => Self::Put,
            PutMode::Create => Self::Create,
            PutMode::Update(_) => Self::Replace,
        }
    }

    pub(crate) fn of_get(options: &GetOptions) -> Self {
        if options.head { Self::Head } else { Self::Get }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
