"""The application: screens, keys, refreshing, web and background runs."""
