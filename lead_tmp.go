package main

import "errors"

var errNotYet = errors.New("x")
