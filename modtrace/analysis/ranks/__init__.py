"""Many ranks beside each other: what each spent its time in, which one the others wait for, which one failed first."""
