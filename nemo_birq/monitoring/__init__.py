"""Health of a run: statistics of both tasks, gradients, churn, finite numbers, alarms and the log."""
