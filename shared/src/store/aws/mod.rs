//! The AWS family: one `DynamoDB` table for everything that is decided on, S3 for bundles.
