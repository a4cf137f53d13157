terraform {
  required_version = ">= 1.9" # validations look at other variables
}
