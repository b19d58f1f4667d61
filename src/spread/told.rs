//! What came of it, as a table for a terminal.
//!
//! Pure.

use comfy_table::{Table, presets};

use super::{Results, Spread};

/// The table, and what is to be said of it.
#[must_use]
pub fn table(results: &Results) -> String {
    let Results { name, server, answers, lost, clients, addresses_per_answer, .. } = results;
    let mut text = format!("{name} asked of {server}: {answers} answers to {clients} clients");
    if *lost > 0 {
        text += &format!(", {lost} questions without one");
    }
    if let Some(policy) = &results.policy {
        text += &format!("; its policy is {policy}");
    }
    text += &format!("\n{addresses_per_answer:.2} addresses in an answer on average\n\n");
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let titles = results.spreads.iter().map(|spread| spread.chooser.title().to_uppercase());
    table.set_header(["FIRST ADDRESS".to_owned(), "INTENDED".into()].into_iter().chain(titles));
    for (i, address) in results.addresses.iter().enumerate() {
        let shares = results.spreads.iter().map(|spread| percent(spread.shares[i]));
        table.add_row([address.to_string(), percent(results.intended[i])].into_iter().chain(shares));
    }
    let row = |what: &str, of: &dyn Fn(&Spread) -> String| {
        let cells = results.spreads.iter().map(of);
        [what.to_owned(), String::new()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    table.add_row(row("furthest off", &|spread| format!("{:.2} points", spread.max_deviation_points)));
    table.add_row(row("chi-squared", &|spread| {
        spread.chi_squared.map_or_else(String::new, |fit| format!("{:.1} of {}", fit.value, fit.degrees))
    }));
    table.add_row(row("p", &|spread| {
        spread.chi_squared.map_or_else(String::new, |fit| format!("{:.3}", fit.p))
    }));
    text + &table.trim_fmt() + "\n"
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}
