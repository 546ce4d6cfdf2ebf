"""The exercises themselves, as data: by name, in the order of the course."""

from kdlab.exercises.catalogue import (
    calibration,
    choosing_teachers,
    contrast,
    curriculum,
    decoupled,
    features,
    logits,
    looking,
    maps,
    own,
    pulls,
    questions,
    reading,
    reflection,
    relations,
    reuse_classifier,
    scaling,
    student_friendly,
    targets,
    teachers,
)
from kdlab.exercises.exercise import Exercise, Question

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for part in (
        logits,
        decoupled,
        targets,
        features,
        maps,
        relations,
        contrast,
        reuse_classifier,
        reflection,
        curriculum,
        student_friendly,
        teachers,
        choosing_teachers,
        reading,
        calibration,
        looking,
        pulls,
        own,
        scaling,
    )
    for exercise in part.EXERCISES
}
"""Functions to write."""

QUESTIONS: dict[str, Question] = {
    question.name: question
    for part in (
        questions,
        maps,
        contrast,
        reuse_classifier,
        reflection,
        student_friendly,
        choosing_teachers,
        looking,
        pulls,
        own,
        scaling,
    )
    for question in part.QUESTIONS
}
"""Numbers and choices to work out."""
