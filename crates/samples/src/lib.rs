//! The sample services: Bookinfo, helloworld, curl, tcp-echo.
