//! What of a session may be brought to the host: decided over what stands in the session, on the host, and
//! where both began. Nothing is touched here; the steps that come out are carried out by an
//! [`ApplyTarget`](forge_domain::ApplyTarget).

mod commits;
mod links;
mod merge;
mod plan;
mod surface;

pub use commits::{LISTING_SCRIPT, Listing, ListingError, MAX_REFS, bundle_revisions};
pub use merge::{Merged, merge};
pub use plan::{
    Candidate, Choices, Conflict, Left, MANY_DELETIONS, MAX_BYTES, MAX_FILES, Plan, Reason,
    Resolution, Trees, Version, plan,
};
pub use surface::{Surface, surface};
