//! Install, upgrade and uninstall from the charts; later the Sail controllers.
