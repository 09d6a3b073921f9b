"""The hot-standby pair with real keepalived and AWS CLI, in namespaces with an EC2 of their own."""
