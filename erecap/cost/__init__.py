"""What calls cost: FLOPs, milliseconds, prices; and which lever a replanning call should pull."""
