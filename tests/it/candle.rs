//! The behaviour of candle on which this project relies, or against which it guards. A candle upgrade that changes any
//! of it fails here.

use candle_core::{Device, Tensor, Var};
use genebank::tensor::{Weight, ops};

fn vector(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn read(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "graphs of a few nodes")]
fn gradient(loss: &Tensor, var: &Var) -> Option<Vec<f32>> {
    loss.backward().unwrap().get(var.as_tensor()).map(read)
}

#[test]
fn a_variable_of_a_variable_is_the_same_storage() {
    let var = Var::from_tensor(&vector(&[1.0])).unwrap();
    let alias = Var::from_tensor(var.as_tensor()).unwrap();
    let detached = var.as_tensor().detach();
    var.set(&vector(&[2.0])).unwrap();
    assert_eq!(read(alias.as_tensor()), [2.0]);
    assert_eq!(read(&detached), [2.0]);
}

#[test]
fn slices_and_repeats_carry_gradients_to_the_variable() {
    let var = Var::from_tensor(&vector(&[1.0, 2.0, 3.0])).unwrap();
    let slice = var.as_tensor().narrow(0, 0, 2).unwrap();
    let loss = (Tensor::cat(&[&slice, &slice], 0).unwrap().sqr().unwrap()).sum_all().unwrap();
    // The derivative of 2 x² inside the slice, and 0 outside.
    assert_eq!(gradient(&loss, &var).unwrap(), [4.0, 8.0, 0.0]);
}

#[test]
fn detached_tensors_record_no_graph() {
    let var = Var::from_tensor(&vector(&[1.0, 2.0])).unwrap();
    let served = var.as_tensor().detach();
    assert!(!(&served * 2.0).unwrap().track_op());
    assert!((var.as_tensor() * 2.0).unwrap().track_op());
}

#[test]
fn our_operations_keep_the_graph() {
    let var = Var::from_tensor(&vector(&[0.3, -1.2, 0.7, 2.0]).reshape((2, 2)).unwrap()).unwrap();
    let x = var.as_tensor();
    let (weight, bias) = (vector(&[1.0, 0.5]), vector(&[0.0, 0.1]));
    let square = vector(&[1.0, 0.5, -0.5, 1.0]).reshape((2, 2)).unwrap();
    let affine = |weight: &Tensor, bias: &Tensor| ops::Affine {
        weight: Weight::new(weight).unwrap(),
        bias: Weight::new(bias).unwrap(),
    };
    let norm = affine(&vector(&[1.0; 4]), &vector(&[0.0; 4]));
    let qkv = Tensor::cat(&[x, x, x], 1).unwrap().unsqueeze(0).unwrap();
    for result in [
        ops::linear(x, &affine(&square, &bias)),
        ops::layer_norm(&Tensor::cat(&[x, &(x * 2.0).unwrap()], 1).unwrap(), &norm, 1e-6),
        ops::gelu(&x.broadcast_mul(&weight).unwrap()),
        ops::attention(&qkv, 1),
    ] {
        let loss = result.unwrap().sqr().unwrap().sum_all().unwrap();
        assert!(gradient(&loss, &var).unwrap().iter().any(|g| *g != 0.0));
    }
}
