//! One thing varied, all else as it is: how each design does with more nodes, names, changes.

use std::io;

use super::cluster::Cluster;
use super::results::{Negatives, Row, SweepResult};
use super::sweep::Sweep;
use super::{Design, Experiment, Task, speed};

/// Varies one thing.
pub(super) fn measure(task: &Task, sweep: Sweep, progress: &dyn Fn(&str)) -> io::Result<SweepResult> {
    let mut points = Vec::new();
    for &value in sweep.values() {
        let experiment = sweep.experiment(&task.experiment, value);
        let mut rows = Vec::new();
        for &design in &task.designs {
            progress(&format!("{}: {value}: {}", sweep.text(), design.name()));
            rows.push(measure_one(task, design, &experiment, negatives(sweep))?);
        }
        points.push((f64::from(value), rows));
    }
    Ok(SweepResult { sweep, points })
}

fn measure_one(
    task: &Task,
    design: Design,
    experiment: &Experiment,
    negatives: Negatives,
) -> io::Result<Row> {
    let mut cluster = Cluster::start(design, experiment, &task.layout)?;
    speed::check(&cluster, design, experiment)?;
    speed::warm_up(task, &mut cluster, experiment)?;
    let round = speed::load_while(task, &mut cluster, experiment, negatives, false)?;
    Ok(speed::summarise(design.name(), negatives, &[round]))
}

/// Which names nobody has are asked for: where that is not what is varied, they are those that a cache can keep, since
/// with new ones nothing else would be seen of it.
fn negatives(sweep: Sweep) -> Negatives {
    if sweep == Sweep::Negative { Negatives::New } else { Negatives::Repeated }
}
