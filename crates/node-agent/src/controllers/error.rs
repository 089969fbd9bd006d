//! What can go wrong in a controller.

/// A failed step of a controller; the step is tried again with back-off.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The API server refused a request or did not answer.
    #[error("{action}: {source}")]
    Api {
        /// What was being done, with the object's name.
        action: String,
        /// The client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// Every name that was tried for a new object is taken.
    #[error("all candidate names of {object} are taken; will try others")]
    NoFreeName {
        /// What needed a name.
        object: String,
    },
    /// A worker ended; it never should.
    #[error("the {name} controller ended")]
    Ended {
        /// The controller's name.
        name: String,
    },
}

/// Adds what was being done to an API error.
pub(crate) trait Doing<T> {
    /// Names the action that failed.
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, ControllerError>;
}

impl<T> Doing<T> for Result<T, kube::Error> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, ControllerError> {
        self.map_err(|source| ControllerError::Api {
            action: action(),
            source: Box::new(source),
        })
    }
}

/// Whether the API server answered with this HTTP status.
pub(crate) fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
