"""Where the credentials that issuers made are kept."""
