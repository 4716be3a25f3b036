//! A real node: see the README.
/// Whether a real node can run here.
pub fn supported() -> crate::Result<()> {
    Ok(())
}
