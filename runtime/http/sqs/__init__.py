"""The API of SQS, as boto3 speaks it: JSON 1.0 over ``X-Amz-Target: AmazonSQS.<Operation>``."""
