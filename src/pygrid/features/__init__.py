"""What an app can do, one folder for each capability: routes, service, tasks."""
