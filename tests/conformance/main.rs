//! The conformance kit, and what passes it. A kit that cannot fail is a defect: `mutants` are drivers with one flaw each.

mod memory;
