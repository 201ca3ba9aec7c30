//! Prometheus' text form, version 0.0.4, as far as it is needed here.

use std::fmt::{Display, Write};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts in classes.
    Histogram,
}

/// A page of metrics in the making. Names, helps and label names are ours and plain; label values may be anything.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    /// Begins a metric: its samples follow.
    pub fn head(&mut self, kind: Kind, name: &'static str, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// Writes one sample of the metric that was begun.
    pub fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let name = self.name;
        self.put(format_args!("{name}{suffix}"));
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            self.put(format_args!("{before}{label}=\"{}\"", escaped(text)));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        self.put(format_args!("{after} {value}\n"));
    }

    /// Writes a metric that has one sample.
    pub fn one(&mut self, kind: Kind, name: &'static str, help: &str, value: impl Display) {
        self.head(kind, name, help);
        self.sample("", &[], value);
    }

    /// Writes the samples of a histogram whose classes have these upper ends and hold so many each; the last class,
    /// which has no end, is the last of `counts`.
    pub fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        ends: impl Iterator<Item = f64>,
        counts: &[u64],
        sum: impl Display,
    ) {
        let ends = ends.map(|end| end.to_string());
        let mut so_far = 0;
        for (end, count) in ends.chain(["+Inf".to_owned()]).zip(counts) {
            so_far += count;
            self.sample("_bucket", &[labels, &[("le", &end)]].concat(), so_far);
        }
        self.sample("_sum", labels, sum);
        self.sample("_count", labels, so_far);
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.text
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a text takes any text");
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    text.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_may_hold_anything() {
        let mut out = Exposition::default();
        out.head(Kind::Gauge, "a", "Words.");
        out.sample("", &[("b", "x\"\\\n"), ("c", "")], 1);
        let said = "# HELP a Words.\n# TYPE a gauge\na{b=\"x\\\"\\\\\\n\",c=\"\"} 1\n";
        assert_eq!(out.into_text(), said);
    }
}
