mod documents;
mod errors;
