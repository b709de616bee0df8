//! Builds again when a migration changes: `sqlx::migrate!` reads them at compile time.

fn main() {
    for of in ["callback", "producer", "consumer"] {
        println!("cargo:rerun-if-changed=../../migrations/{of}");
    }
}
