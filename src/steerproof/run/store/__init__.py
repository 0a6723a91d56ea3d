"""Where units lie: files, manifests, the ledger, the hold on a directory."""
