//! From clauses to named tests.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use forge_domain::ExecutionEnvironment;

/// An environment for one clause, with an empty workspace, and whatever has to live as long.
///
/// Beside the workspace, whose parent is writable for the test alone, the fixture provides nothing:
/// clauses make what they need through the ports.
pub struct Fixture {
    /// The environment under test; nobody has used it yet.
    pub environment: Arc<dyn ExecutionEnvironment>,
    guard: Box<dyn Any + Send>,
}

impl Fixture {
    /// Joins an environment and what has to be kept until the clause is over, as a temporary directory.
    pub fn new(environment: impl ExecutionEnvironment + 'static, guard: impl Any + Send) -> Self {
        Self { environment: Arc::new(environment), guard: Box::new(guard) }
    }
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture").field("environment", &self.environment).finish_non_exhaustive()
    }
}

/// A clause that takes longer hangs, on the slowest machine too.
const CLAUSE_LIMIT: Duration = Duration::from_secs(120);

/// Runs one clause and closes the environment.
///
/// # Panics
/// Where the clause does not hold, or does not end.
pub async fn run_clause<F: Future<Output = ()>>(
    fixture: Fixture,
    clause: impl FnOnce(Arc<dyn ExecutionEnvironment>) -> F,
) {
    let environment = Arc::clone(&fixture.environment);
    let ended = tokio::time::timeout(CLAUSE_LIMIT, clause(environment)).await;
    assert!(ended.is_ok(), "the clause did not end within {CLAUSE_LIMIT:?}");
    fixture.environment.close().await.unwrap();
    drop(fixture.guard);
}

/// Makes one named test per clause for an adapter.
///
/// The name becomes a module, so that tests read `local::commands::exit_codes_come_back`. The maker is
/// an `async fn() -> Fixture` in the same scope. The caller's crate needs `tokio` with `macros` and `rt`.
///
/// ```no_run
/// use forge_conformance::{FakeEnvironment, Fixture, conformance_suite};
///
/// async fn make_fake() -> Fixture {
///     Fixture::new(FakeEnvironment::new(), ())
/// }
///
/// conformance_suite!(fake, make_fake);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance_suite {
    ($adapter:ident, $make:ident) => {
        mod $adapter {
            $crate::__clauses!(__tests_of_group, $make);
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests_of_group {
    ($make:ident, $group:ident: $($clause:ident)*) => {
        mod $group {
            $(
                #[::tokio::test]
                async fn $clause() {
                    let fixture = super::super::$make().await;
                    $crate::run_clause(fixture, $crate::clauses::$group::$clause).await;
                }
            )*
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __names_of_group {
    ($names:ident, $group:ident: $($clause:ident)*) => {
        $names.extend([$(concat!(stringify!($group), "::", stringify!($clause))),*]);
    };
}

/// The list of all clauses, once, for the tests and for the check that none is missing.
#[doc(hidden)]
#[macro_export]
macro_rules! __clauses {
    ($each:ident, $context:ident) => {
        $crate::$each! { $context, commands:
            exit_codes_come_back
            signals_come_back
            both_streams_come_back_apart_and_whole
            every_byte_survives
            no_final_newline_is_added
            readable_output_keeps_its_text
            output_streams_while_the_command_runs
            a_slow_sink_slows_the_command_and_loses_nothing
            a_closed_sink_breaks_the_pipe
            a_closed_stream_leaves_the_other_open
            much_output_keeps_its_head_and_tail
            the_whole_of_much_output_is_in_a_file_inside
            the_spill_file_stops_at_its_limit
            output_that_fits_spills_nothing
            an_argv_needs_no_quoting
            an_empty_argument_stays_one
            a_missing_program_is_not_found
            a_program_without_the_right_is_not_executable
            a_directory_is_not_executable
            a_missing_directory_is_named
            a_file_as_directory_is_named
            an_empty_program_is_invalid
            a_nul_byte_is_invalid
            a_written_script_runs
            commands_start_in_the_working_directory
            a_relative_directory_is_taken_from_there
            variables_reach_the_command
            the_last_variable_of_a_name_wins
            a_variable_holds_any_text
            no_stdin_is_an_end_of_file
            stdin_is_streamed_to_its_end
            a_command_may_close_its_stdin
            a_command_may_leave_its_stdin_unread
            endless_stdin_does_not_keep_a_command
            a_time_limit_ends_the_command
            a_time_limit_keeps_the_output
            a_command_that_ignores_sigterm_is_killed
            a_command_may_tidy_up_within_its_grace
            children_get_their_grace_too
            cancelling_ends_the_command_and_keeps_the_output
            a_signal_is_passed_on
            a_signal_that_is_handled_is_no_ending
            a_dropped_controller_asks_nothing
            dropping_the_future_ends_the_command
            dropping_the_future_ends_the_children
            children_end_with_their_leader
            daemons_end_with_their_leader
            a_child_that_holds_the_pipe_does_not_delay
            output_of_children_is_kept
            twenty_commands_run_at_once
            what_a_command_writes_the_next_one_reads
        }
        $crate::$each! { $context, background:
            it_returns_at_once_and_goes_on
            its_output_can_be_polled
            the_same_offset_gives_the_same_output
            an_offset_beyond_the_end_gives_nothing
            a_poll_waits_for_output
            a_poll_gives_up_in_time
            its_end_is_told
            its_code_is_kept
            stopping_ends_it_and_its_children
            stopping_twice_keeps_the_ending
            one_that_ended_keeps_its_ending_when_stopped
            one_that_ignores_sigterm_is_killed
            its_time_limit_holds
            it_reads_nothing
            many_are_listed_in_order
            an_unknown_id_is_not_found
            one_that_cannot_start_is_an_error
            at_least_the_last_256_kib_are_kept
        }
        $crate::$each! { $context, terminals:
            stdin_stdout_and_stderr_are_the_terminal
            it_is_the_controlling_terminal
            both_streams_are_shown
            it_begins_with_its_size
            another_size_is_signalled
            another_size_is_there_before_what_is_typed_next
            what_is_typed_is_shown_and_read
            ctrl_d_is_an_end_of_file
            ctrl_c_interrupts
            ctrl_c_can_be_handled
            every_byte_survives
            the_kind_of_terminal_is_said
            it_runs_in_the_working_directory
            its_code_comes_back
            a_signal_is_its_ending
            a_signal_is_passed_on
            nobody_at_the_terminal_is_no_end
            cancelling_hangs_up
            one_that_ignores_the_hang_up_is_killed
            its_time_limit_holds
            dropping_the_future_ends_it
            its_children_end_with_it
            much_output_waits_for_the_sink
            a_closed_sink_ends_it
            one_that_cannot_start_is_an_error
            several_at_once_are_apart
            closing_ends_it
        }
        $crate::$each! { $context, files:
            what_is_written_is_read
            any_bytes_survive
            an_empty_file_is_a_file
            a_range_is_exact
            a_range_beyond_the_end_is_empty
            parents_are_made
            a_written_file_is_seen_by_commands
            what_a_command_wrote_is_read
            replacing_keeps_the_mode
            a_mode_can_be_set
            an_existing_file_can_be_kept
            a_missing_file_is_not_found
            a_path_below_a_file_is_an_error
            a_directory_cannot_be_read
            a_directory_cannot_be_overwritten
            a_fifo_is_special
            an_empty_path_is_invalid
            a_nul_byte_in_a_path_is_invalid
            a_name_that_is_too_long_is_refused
            leaving_the_workspace_is_refused
            a_symlink_that_leaves_is_refused
            a_symlink_that_stays_is_followed
            writing_through_a_symlink_keeps_it
            dots_inside_are_resolved
            the_scratch_space_can_be_used
            strange_names_are_names
            a_listing_is_sorted_and_whole
            a_file_cannot_be_listed
            stat_says_what_is_there
            stat_does_not_follow
            removing_takes_files_and_links
            removing_a_full_directory_needs_a_tree
            removing_a_tree_leaves_what_links_point_to
            the_roots_cannot_be_removed
            a_missing_file_cannot_be_removed
        }
        $crate::$each! { $context, search:
            lines_are_found_with_their_numbers
            case_can_be_ignored
            globs_choose_files
            excluding_globs_leave_out
            without_a_pattern_files_are_listed
            ignore_rules_hold_without_git
            ignore_rules_can_be_disregarded
            the_git_directory_is_never_searched
            hidden_files_are_searched
            binary_files_are_passed_over
            results_are_limited
            long_lines_are_cut_around_the_match
            a_root_limits_the_search
            a_single_file_can_be_searched
            a_bad_pattern_is_said
            a_bad_glob_is_said
            a_missing_root_is_said
            a_root_outside_is_refused
            files_that_are_no_utf8_are_searched
        }
        $crate::$each! { $context, description:
            it_names_what_is_there
            it_is_stable
            a_use_makes_it_no_other
            its_kind_is_known_without_it
            its_paths_exist
        }
        $crate::$each! { $context, changes:
            nothing_has_changed_at_first
            written_files_are_listed
            taking_in_leaves_what_the_session_changed
            discarding_takes_everything_back
        }
        $crate::$each! { $context, life:
            preparing_twice_is_one
            closing_before_the_first_use_works
            closing_twice_works
            closing_at_the_same_time_works
            every_call_after_the_close_is_refused
            closing_ends_running_commands
            closing_ends_background_commands
        }
    };
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    /// A clause that is written and not listed would be run by nobody.
    #[test]
    fn every_clause_is_in_the_list() {
        let mut listed: Vec<&str> = Vec::new();
        crate::__clauses!(__names_of_group, listed);
        listed.sort_unstable();
        let sources = [
            ("commands", include_str!("clauses/commands.rs")),
            ("commands", include_str!("clauses/streams.rs")),
            ("commands", include_str!("clauses/endings.rs")),
            ("background", include_str!("clauses/background.rs")),
            ("terminals", include_str!("clauses/terminals.rs")),
            ("files", include_str!("clauses/files.rs")),
            ("search", include_str!("clauses/search.rs")),
            ("description", include_str!("clauses/description.rs")),
            ("changes", include_str!("clauses/changes.rs")),
            ("life", include_str!("clauses/life.rs")),
        ];
        let mut written: Vec<String> = sources
            .iter()
            .flat_map(|(group, source)| {
                source
                    .lines()
                    .filter_map(|line| line.strip_prefix("pub async fn "))
                    .filter_map(|line| line.split('(').next())
                    .map(move |name| format!("{group}::{name}"))
            })
            .collect();
        written.sort_unstable();
        assert_eq!(written, listed);
    }
}
