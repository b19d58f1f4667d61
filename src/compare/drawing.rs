//! A small drawing of each design: who talks to whom when a name is asked for.

use super::Design;

/// Where the nodes are drawn.
const NODES: [(u32, u32); 4] = [(250, 40), (330, 90), (250, 140), (170, 90)];

/// The design as SVG.
pub(super) fn drawing(design: Design) -> String {
    let mut svg = String::from(
        "<svg class=\"drawing\" viewBox=\"0 0 400 180\" role=\"img\"><defs><marker id=\"tip\" viewBox=\"0 0 8 8\" \
         refX=\"7\" refY=\"4\" markerWidth=\"6\" markerHeight=\"6\" orient=\"auto-start-reverse\"><path d=\"M0 0 8 4 \
         0 8z\"/></marker></defs>",
    );
    let arrow = |from: (u32, u32), to: (u32, u32), class: &str| {
        // From edge to edge of the circles, not from middle to middle.
        let (dx, dy) = (f64::from(to.0) - f64::from(from.0), f64::from(to.1) - f64::from(from.1));
        let part = 20.0 / dx.hypot(dy);
        let (x1, y1) = (f64::from(from.0) + dx * part, f64::from(from.1) + dy * part);
        let (x2, y2) = (f64::from(to.0) - dx * part, f64::from(to.1) - dy * part);
        format!(
            "<line class=\"{class}\" x1=\"{x1:.0}\" y1=\"{y1:.0}\" x2=\"{x2:.0}\" y2=\"{y2:.0}\" \
             marker-end=\"url(#tip)\"/>"
        )
    };
    let (client, asked) = ((50, 90), NODES[3]);
    svg += &arrow(client, asked, "query");
    match design {
        Design::Broadcast | Design::Cache => {
            for other in &NODES[..3] {
                svg += &arrow(asked, *other, if design == Design::Cache { "query first" } else { "query" });
            }
        }
        Design::Gossip => {
            for (i, from) in NODES.iter().enumerate() {
                svg += &arrow(*from, NODES[(i + 1) % NODES.len()], "update");
            }
        }
    }
    for (i, (x, y)) in NODES.iter().enumerate() {
        let holds = match design {
            Design::Gossip => "all",
            _ => ["b", "c", "d", "a"][i],
        };
        svg += &format!(
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"17\"/><text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{holds}</text>",
            y + 4
        );
    }
    if design == Design::Cache {
        svg += "<rect x=\"108\" y=\"118\" width=\"76\" height=\"20\" rx=\"4\"/><text x=\"146\" y=\"132\" \
                text-anchor=\"middle\">b, c, none</text>";
    }
    svg += "<text x=\"50\" y=\"94\" text-anchor=\"middle\">client</text></svg>";
    svg
}

/// What it does, in a sentence or two.
pub(super) fn told(design: Design) -> &'static str {
    match design {
        Design::Broadcast => {
            "Each node holds its own names. For any other it asks all nodes while the client waits, and takes the \
             first answer. That nobody has a name shows only when nobody has answered in 500 ms."
        }
        Design::Cache => {
            "The same, and what was answered is kept for 30 s, also that nobody has a name; names that are asked for \
             are asked for again in the background before they expire. This is what weaveDNS 1.0 did."
        }
        Design::Gossip => {
            "Nodes tell each other what is registered, so that each holds all names. A query is answered at once from \
             memory, also for a name that does not exist. This is what weaveDNS 1.1 did, and Redbreast does."
        }
    }
}
