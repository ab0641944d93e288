//! The fake keeps every promise of the ports.

use forge_conformance::{FakeEnvironment, Fixture, conformance_suite};

async fn fake_environment() -> Fixture {
    Fixture::new(FakeEnvironment::new(), ())
}

conformance_suite!(fake, fake_environment);
