"""Health of a run: statistics of both tasks, gradients, label churn, checks for finite numbers, alarms and the log."""
