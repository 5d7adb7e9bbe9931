// Package sample is a small distribution of our own.
package sample
