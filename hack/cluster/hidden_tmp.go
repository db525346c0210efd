package main

func runHidden(string, []string) bool { return false }
