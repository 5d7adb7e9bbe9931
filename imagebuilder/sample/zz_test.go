package sample

import (
	"os"
	"testing"
	"time"
)

func TestHand(t *testing.T) {
	d := os.Getenv("OUT")
	if d == "" {
		t.Fatal()
	}
	s := time.Now()
	if err := Write(d, Options{BaseURL: os.Getenv("BASE")}); err != nil {
		t.Fatal(err)
	}
	t.Log(time.Since(s))
}
