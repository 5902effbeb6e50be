"""What a platform team watches from outside: a text file for Prometheus, and trainings in MLflow. Both are optional."""
